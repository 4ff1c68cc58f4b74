{{/* Where the serving certificate comes from: server, values, secret or cert-manager. */}}
{{- define "tagger.certificate.source" -}}
{{- $sources := list }}
{{- if .Values.cert }}{{ $sources = append $sources "values" }}{{ end }}
{{- if .Values.certificate.secret }}{{ $sources = append $sources "secret" }}{{ end }}
{{- if .Values.certificate.certManager.enabled }}{{ $sources = append $sources "cert-manager" }}{{ end }}
{{- if gt (len $sources) 1 }}
{{- fail "\n\nThe serving certificate has one source: set either cert and key, or certificate.secret, or certificate.certManager.enabled, or none of them." }}
{{- end }}
{{- range $name, $pem := dict "cert" .Values.cert "certificate.ca" .Values.certificate.ca }}
{{- if and $pem (not (contains "CERTIFICATE" $pem)) }}
{{- fail (printf "\n\n%s: is not a certificate in PEM. Give its content by --set-file %s=FILE." $name $name) }}
{{- end }}
{{- end }}
{{- if and .Values.key (not (contains "PRIVATE KEY" .Values.key)) }}
{{- fail "\n\nkey: is not a private key in PEM. Give its content by --set-file key=FILE." }}
{{- end }}
{{- first (append $sources "server") }}
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
