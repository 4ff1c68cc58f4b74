{{/*
What is refused: for each value that does not go with the others, or that the server would not start with, a line that names it and
says what to set. The form of each value is for values.schema.json, which comes first and speaks to those who know schemas. Neither
certificates nor keys are repeated.
*/}}
{{- define "tagger.refusals" -}}
{{- include "tagger.refusals.servers" . }}
{{- include "tagger.refusals.registry" . }}
{{- include "tagger.refusals.certificate" . }}
{{- include "tagger.refusals.sources" . }}
{{- include "tagger.refusals.forms" . }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.enabled) }}
metrics.serviceMonitor.enabled: there are no metrics to read. Set metrics.enabled=true too.
{{- end }}
{{- end }}

{{- define "tagger.refusals.servers" -}}
{{- $embedded := eq .Values.etcd.mode "embedded" }}
{{- if gt (int .Values.replicas) 1 }}
{{- if $embedded }}
replicas: {{ int .Values.replicas }} servers need an etcd that they share, and etcd.mode is embedded. Set etcd.mode=bundled or etcd.mode=external, or replicas=1.
{{- end }}
{{- if .Values.imageStore.enabled }}
replicas: {{ int .Values.replicas }} servers cannot share an image store. Set imageStore.enabled=false, and name a registry in the Secret mirror-registry-config once it is installed; or set replicas=1.
{{- end }}
{{- else if and $embedded (not .Values.imageStore.enabled) }}
imageStore.enabled: is false, and the embedded etcd needs the volume of the image store. Set etcd.mode=bundled or etcd.mode=external, or imageStore.enabled=true.
{{- end }}
{{- if and (eq .Values.etcd.mode "external") (not .Values.etcd.external.servers) }}
etcd.external.servers: is empty, and etcd.mode is external. Name the servers, such as https://etcd-0.example.com:2379, or set another etcd.mode.
{{- end }}
{{- if ne .Values.etcd.mode "external" }}
{{- range $name, $value := pick .Values.etcd.external "servers" "secret" }}
{{- if $value }}
etcd.external.{{ $name }}: is set, and etcd.mode is {{ $.Values.etcd.mode }}. Set etcd.mode=external, or leave etcd.external.{{ $name }} out.
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.persistence.existingClaim }}
{{- if not .Values.imageStore.enabled }}
persistence.existingClaim: is set, and servers have no volume where imageStore.enabled is false. Leave persistence.existingClaim out.
{{- else if not .Values.persistence.enabled }}
persistence.existingClaim: is set, and persistence.enabled is false. Set persistence.enabled=true, so that the claim is used, or leave persistence.existingClaim out.
{{- end }}
{{- end }}
{{- end }}

{{- define "tagger.refusals.registry" -}}
{{- $registry := .Values.registry }}
{{- if $registry.nodeTokens }}
{{- if not $registry.audiences }}
registry.audiences: is empty, and registry.nodeTokens is true. Name the audience that nodes ask for, such as tagger.dev.
{{- end }}
{{- range $registry.audiences }}
{{- if contains "/" . }}
registry.audiences: {{ quote . }} has a slash, which RBAC cannot grant to nodes. Name an audience without one, such as tagger.dev, or set registry.nodeTokens=false.
{{- end }}
{{- end }}
{{- end }}
{{- if and $registry.ingress.enabled (not $registry.ingress.host) }}
registry.ingress.host: is empty, and registry.ingress.enabled is true. Set the name by which nodes and people reach the registry port.
{{- end }}
{{- $service := $registry.service }}
{{- $type := include "tagger.registry.serviceType" . | default "ClusterIP" }}
{{- if and .Values.loadBalancer (eq $service.type "NodePort") }}
loadBalancer: is true, and registry.service.type is NodePort. Set one of them: loadBalancer=true is the same as registry.service.type=LoadBalancer.
{{- end }}
{{- if eq $type "ClusterIP" }}
{{- range $name, $value := pick $service "nodePort" "annotations" "externalTrafficPolicy" }}
{{- if $value }}
registry.service.{{ $name }}: is set, and registry.service.type is ClusterIP, which adds no Service. Set registry.service.type=NodePort or registry.service.type=LoadBalancer, or leave registry.service.{{ $name }} out.
{{- end }}
{{- end }}
{{- end }}
{{- if ne $type "LoadBalancer" }}
{{- range $name, $value := pick $service "loadBalancerClass" "loadBalancerSourceRanges" }}
{{- if $value }}
registry.service.{{ $name }}: is set, and registry.service.type is {{ $type }}. Set registry.service.type=LoadBalancer, or leave registry.service.{{ $name }} out.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tagger.refusals.certificate" -}}
{{- $certificate := .Values.certificate }}
{{- $cert := .Values.cert | default "" }}
{{- $key := .Values.key | default "" }}
{{- $ca := $certificate.ca | default "" }}
{{- $sources := list }}
{{- if or $cert $key }}{{ $sources = append $sources "values" }}{{ end }}
{{- if $certificate.secret }}{{ $sources = append $sources "secret" }}{{ end }}
{{- if $certificate.certManager.enabled }}{{ $sources = append $sources "cert-manager" }}{{ end }}
{{- if gt (len $sources) 1 }}
cert, key, certificate: the serving certificate has one source. Set either cert and key, or certificate.secret, or certificate.certManager.enabled, or none of them.
{{- end }}
{{- if and $certificate.secret (not $ca) }}
certificate.ca: is empty, and certificate.secret is set. Give the authority that signed the certificate, which kube-apiserver has to trust, by --set-file certificate.ca=ca.crt.
{{- end }}
{{- if and $cert (not $key) }}
key: is empty, and cert is set. Give both, by --set-file cert=tls.crt --set-file key=tls.key, or neither.
{{- end }}
{{- if and $key (not $cert) }}
cert: is empty, and key is set. Give both, by --set-file cert=tls.crt --set-file key=tls.key, or neither.
{{- end }}
{{- if and (contains "PRIVATE KEY-----" $cert) (include "tagger.isCertificate" $key) }}
cert and key: are swapped. Give the certificate as cert and its private key as key: --set-file cert=tls.crt --set-file key=tls.key.
{{- else }}
{{- range $name, $pem := dict "cert" $cert "certificate.ca" $ca }}
{{- if $pem }}{{ include "tagger.refusals.pem" (dict "name" $name "pem" $pem) }}{{ end }}
{{- end }}
{{- if and $key (not (include "tagger.isPEM" (dict "type" "((RSA|EC) )?PRIVATE KEY" "text" $key))) }}
key: is not a private key in PEM without a passphrase. Give the content of such a file, by --set-file key=FILE.
{{- end }}
{{- end }}
{{- end }}

{{/* Of a dictionary with the name of a value, as --set-file has it, and pem, which should be certificates. */}}
{{- define "tagger.refusals.pem" -}}
{{- if contains "PRIVATE KEY-----" .pem }}
{{ .name }}: has a private key in it. Give a file with nothing but certificates, by --set-file '{{ .name }}=FILE'.
{{- else if not (include "tagger.isCertificate" .pem) }}
{{ .name }}: is not a certificate in PEM. Give the content of such a file, by --set-file '{{ .name }}=FILE'.
{{- end }}
{{- end }}

{{- define "tagger.isCertificate" -}}
{{ include "tagger.isPEM" (dict "type" "CERTIFICATE" "text" .) }}
{{- end }}

{{/* Whether a text has a block in PEM as Go reads it; empty where not. Of a dictionary with text and type, a regular expression. */}}
{{- define "tagger.isPEM" -}}
{{- if regexMatch (printf `(?m)^-----BEGIN %s-----[ \t\r]*\n[A-Za-z0-9+/=\s]+\n-----END %s-----` .type .type) .text }}true{{ end }}
{{- end }}

{{/* Hosts as the server reads them: pkg/importer, CanonicalHost. */}}
{{- define "tagger.refusals.sources" -}}
{{- $label := `[a-z0-9]([a-z0-9-]*[a-z0-9])?` }}
{{- $name := printf `%s(\.%s)*\.?` $label $label }}
{{- $port := `:0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])` }}
{{- $address := `\[([0-9a-f]{0,4}:){2,7}([0-9a-f]{0,4}|[0-9.]+)\]` }}
{{- range $host, $pem := .Values.sources.certificateAuthorities }}
{{- if not (regexMatch (printf `^(?i:%s|%s)(%s)?$` $name $address $port) $host) }}
sources.certificateAuthorities: {{ quote $host }} is not a host. Write HOST or HOST:PORT, without scheme and path, an IPv6 address in brackets.
{{- else if and (regexMatch (printf `^(?i:%s)\.?$` $label) $host) (ne (lower $host | trimSuffix ".") "localhost") }}
sources.certificateAuthorities: {{ quote $host }} needs its port, or it would read as a repository of docker.io. Write {{ trimSuffix "." $host }}:443, or the port that it has.
{{- end }}
{{- include "tagger.refusals.pem" (dict "name" (printf "sources.certificateAuthorities.%s" (replace "." "\\." $host)) "pem" $pem) }}
{{- end }}
{{- end }}

{{/* Values whose form is easier said in a sentence than by the pattern that they do not match. */}}
{{- define "tagger.refusals.forms" -}}
{{- range $name, $image := dict "image" .Values.image "etcd.bundled.image" .Values.etcd.bundled.image }}
{{- if not (regexMatch (include "tagger.pattern.image" $) $image) }}
{{ $name }}: {{ quote $image }} is not the name of an image. Write HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:DIGEST, without a scheme, the repository in lower case.
{{- end }}
{{- end }}
{{- with .Values.etcd.bundled.defragmentation }}
{{- if and .enabled (not (regexMatch (include "tagger.pattern.schedule" $) .schedule)) }}
etcd.bundled.defragmentation.schedule: {{ quote .schedule }} is not a schedule of cron. Write minute, hour, day of the month, month and day of the week, such as "17 3 * * *", or set etcd.bundled.defragmentation.enabled=false.
{{- end }}
{{- end }}
{{- end }}

{{/* The name of an image, as container runtimes read it: a host with a port or without, a repository, a tag and a digest. */}}
{{- define "tagger.pattern.image" -}}
{{- $host := `([a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(:[0-9]+)?` }}
{{- $part := `[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*` }}
{{- printf `^(%s/)?%s(/%s)*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?$` $host $part $part }}
{{- end }}

{{/* A schedule, as CronJobs have it. */}}
{{- define "tagger.pattern.schedule" -}}
{{- $fields := list }}
{{- range list `0?[0-9]|[1-5][0-9]` `[01]?[0-9]|2[0-3]` `0?[1-9]|[12][0-9]|3[01]` `0?[1-9]|1[0-2]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec` `0?[0-6]|sun|mon|tue|wed|thu|fri|sat` }}
{{- $part := printf `([*?]|(%s)(-(%s))?)(/[1-9][0-9]*)?` . . }}
{{- $fields = append $fields (printf `%s(,%s)*` $part $part) }}
{{- end }}
{{- printf `^(\s*(?i:%s)\s*|@(yearly|annually|monthly|weekly|daily|midnight|hourly)|@every ([0-9]+(\.[0-9]+)?[hms])+)$` (join `\s+` $fields) }}
{{- end }}
