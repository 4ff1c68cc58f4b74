{{- define "type" }}
### {{ .Name }}

{{ .Doc }}
{{ if .References }}
Used by: {{ range $i, $reference := .SortedReferences }}{{ if $i }}, {{ end }}{{ markdownRenderTypeLink $reference }}{{ end }}.
{{ end }}
| Field | Type | |
|---|---|---|
{{- if not .References }}
| `apiVersion` | string | `tagger.dev/{{ .Package | base }}` |
| `kind` | string | `{{ .Name }}` |
{{- end }}
{{- range .Members }}
| `{{ .Name }}` | {{ template "typeOf" .Type }} | {{ template "type_members" . }} |
{{- end }}
{{ end -}}
