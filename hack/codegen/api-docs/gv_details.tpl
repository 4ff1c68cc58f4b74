{{- /* What no other type refers to is a kind. */ -}}
{{- define "gvDetails" -}}
{{- $gv := . -}}
## {{ $gv.GroupVersionString }}

{{ $gv.Doc }}

{{ range $gv.SortedTypes }}{{ if not .References }}- {{ markdownRenderTypeLink . }}
{{ end }}{{ end }}
{{- range $gv.SortedTypes }}{{ if not .References }}{{ template "type" . }}{{ end }}{{ end }}
{{- range $gv.SortedTypes }}{{ if .References }}{{ template "type" . }}{{ end }}{{ end }}
{{- end -}}
