{{- define "gvList" -}}
# API reference

<!-- Generated from the types in pkg/apis by `make generate`. Change their comments, not this file. -->

What `kubectl explain` prints, and ImageRollback, which kubectl does not explain as it is no resource of its own, on one page: the
kinds first, then the types of their fields, each by its name. A field of a `spec` is what users write, and may be left out unless
it says that it is required; a field of a `status` is written by Tagger.
[imports.md](imports.md) says what an import does with them, [proxy.md](proxy.md) what `images/proxy` serves, which has no kinds of its own, and
[api-compatibility.md](api-compatibility.md) what may change.
{{ range . }}
{{ template "gvDetails" . }}
{{- end -}}
{{- end -}}
