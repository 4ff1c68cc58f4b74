{{/* Where the serving certificate comes from: server, values, secret or cert-manager. */}}
{{- define "tagger.certificate.source" -}}
{{- if .Values.cert }}values
{{- else if .Values.certificate.secret }}secret
{{- else if .Values.certificate.certManager.enabled }}cert-manager
{{- else }}server{{ end }}
{{- end }}

{{/* The Secret with the serving certificate, as tls.crt and tls.key; empty where the server makes it. */}}
{{- define "tagger.certificate.secret" -}}
{{- $source := include "tagger.certificate.source" . }}
{{- if eq $source "values" }}certs
{{- else if eq $source "secret" }}{{ .Values.certificate.secret }}
{{- else if eq $source "cert-manager" }}tagger-serving{{ end }}
{{- end }}

{{/* What kube-apiserver trusts, PEM; empty where the server or cert-manager writes it to the APIService. */}}
{{- define "tagger.certificate.ca" -}}
{{- if has (include "tagger.certificate.source" .) (list "values" "secret") }}{{ .Values.certificate.ca | default .Values.cert }}{{ end }}
{{- end }}
