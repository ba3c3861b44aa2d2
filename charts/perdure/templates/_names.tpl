{{- /* Names, labels and images. */ -}}

{{- define "perdure.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* 40 characters leave room for every suffix within the 63 of a DNS label. */ -}}
{{- define "perdure.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "perdure.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Called with (dict "root" $ "component" "operator"); so are the next three. */ -}}
{{- define "perdure.selectorLabels" -}}
app.kubernetes.io/name: {{ include "perdure.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "perdure.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "perdure.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: perdure
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- define "perdure.componentName" -}}
{{ include "perdure.fullname" .root }}-{{ .component }}
{{- end -}}

{{- define "perdure.serviceAccountName" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
{{- default (include "perdure.componentName" .) $account.name -}}
{{- else -}}
{{- default "default" $account.name -}}
{{- end -}}
{{- end -}}

{{- /* Called with (dict "image" .Values.image "defaultTag" "…"). */ -}}
{{- define "perdure.image" -}}
{{- $repository := .image.repository -}}
{{- if .image.registry -}}
{{- $repository = printf "%s/%s" .image.registry .image.repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .defaultTag .image.tag | toString) -}}
{{- end -}}
{{- end -}}

{{- define "perdure.ownImage" -}}
{{- include "perdure.image" (dict "image" .Values.image "defaultTag" .Chart.AppVersion) -}}
{{- end -}}

{{- define "perdure.gatewayUrl" -}}
{{- if .Values.gateway.url -}}
{{- .Values.gateway.url -}}
{{- else -}}
{{- printf "%s://%s-gateway.%s.svc:%v" (ternary "https" "http" (not (empty .Values.gateway.tls.secretName))) (include "perdure.fullname" .) .Release.Namespace .Values.gateway.service.port -}}
{{- end -}}
{{- end -}}
