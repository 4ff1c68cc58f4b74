{{- /* The lines of a comment are one paragraph; a bar would end the cell. */ -}}
{{- define "type_members" -}}
{{ .Doc | replace "\n" " " | replace "|" "\\|" }}
{{- end -}}

{{- /* Types of Kubernetes that JSON has as a string, and the others by a link. */ -}}
{{- define "typeOf" -}}
{{- if has .Name (list "Time" "MicroTime") -}}
string, RFC 3339
{{- else if has .Name (list "Duration" "UID") -}}
string
{{- else if eq (markdownRenderType .) "integer array" -}}
string, base64
{{- else -}}
{{ markdownRenderType . }}
{{- end -}}
{{- end -}}
