{{- define "tagger.etcd.members" -}}
tagger-etcd-0 tagger-etcd-1 tagger-etcd-2
{{- end }}

{{/* URLs of the members, separated by commas. Of a dictionary with root and port, and peers where each has its name before it. */}}
{{- define "tagger.etcd.urls" -}}
{{- $urls := list }}
{{- range splitList " " (include "tagger.etcd.members" .root) }}
{{- $urls = append $urls (printf "%shttps://%s.tagger-etcd.%s.svc:%v" (ternary (print . "=") "" (hasKey $ "peers")) . $.root.Release.Namespace $.port) }}
{{- end }}
{{- join "," $urls }}
{{- end }}

{{/* What --etcd-servers says; empty for the embedded etcd. */}}
{{- define "tagger.etcd.servers" -}}
{{- if eq .Values.etcd.mode "bundled" }}{{ include "tagger.etcd.urls" (dict "root" . "port" 2379) }}
{{- else if eq .Values.etcd.mode "external" }}{{ join "," .Values.etcd.external.servers }}{{ end }}
{{- end }}

{{/* The Secret with what Tagger shows etcd, and trusts there; empty where there is none. */}}
{{- define "tagger.etcd.clientSecret" -}}
{{- if eq .Values.etcd.mode "bundled" }}tagger-etcd-client
{{- else if eq .Values.etcd.mode "external" }}{{ .Values.etcd.external.secret }}{{ end }}
{{- end }}

{{/* Names that certificates of members are for. */}}
{{- define "tagger.etcd.names" -}}
*.tagger-etcd.{{ .Release.Namespace }}.svc tagger-etcd.{{ .Release.Namespace }}.svc localhost
{{- end }}
