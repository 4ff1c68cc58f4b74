{{/*
A cluster has one Tagger, for it has one APIService, so that names are fixed, whatever the release is called.
*/}}

{{- define "tagger.selector" -}}
app.kubernetes.io/name: tagger
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: apiserver
{{- end }}

{{- define "tagger.etcd.selector" -}}
app.kubernetes.io/name: tagger
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: etcd
{{- end }}

{{- define "tagger.labels" -}}
app.kubernetes.io/name: tagger
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ include "tagger.version" . | quote }}
app.kubernetes.io/part-of: tagger
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The version as a tag and as a label, where there is no +. */}}
{{- define "tagger.version" -}}
{{ .Chart.AppVersion | replace "+" "_" | trunc 63 }}
{{- end }}

{{- define "tagger.image" -}}
{{- if regexMatch "(@|:[^/]+$)" .Values.image }}{{ .Values.image }}{{ else }}{{ .Values.image }}:{{ include "tagger.version" . }}{{ end }}
{{- end }}

{{/* What references to mirrored images begin with; empty where the server's own default is right. */}}
{{- define "tagger.externalHost" -}}
{{- if .Values.registry.externalHost }}{{ .Values.registry.externalHost }}
{{- else if .Values.registry.ingress.enabled }}{{ .Values.registry.ingress.host }}{{ end }}
{{- end }}

{{/* The type of the Service tagger-registry; empty where there is none. */}}
{{- define "tagger.registry.serviceType" -}}
{{- if .Values.loadBalancer }}LoadBalancer
{{- else if ne .Values.registry.service.type "ClusterIP" }}{{ .Values.registry.service.type }}{{ end }}
{{- end }}

{{/* What every Pod of this chart has alike. */}}
{{- define "tagger.pod" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where Pods may run. Of a dictionary with values and selector: away from others of that selector, if nothing else is said. */}}
{{- define "tagger.placement" -}}
affinity:
  {{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      podAffinityTerm:
        topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            {{- .selector | nindent 12 }}
  {{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The key of a host's authorities in the ConfigMap tagger-source-certificates. */}}
{{- define "tagger.source.key" -}}
{{ regexReplaceAll "[^-._a-zA-Z0-9]" . "_" }}.crt
{{- end }}

{{/* The claim of a StatefulSet, of its values. Nothing is in it that changes from one version of the chart to the next: it cannot. */}}
{{- define "tagger.claim" -}}
- metadata:
    name: data
    {{- with .annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes:
      {{- toYaml .accessModes | nindent 6 }}
    {{- with .storageClass }}
    storageClassName: {{ ternary "" . (eq . "-") | quote }}
    {{- end }}
    resources:
      requests:
        storage: {{ .size }}
{{- end }}
