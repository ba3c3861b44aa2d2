{{- /* What the bundled Postgres and NATS share. All are called with (dict "root" $ "component" "postgres"). */ -}}

{{- define "perdure.storeService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "perdure.componentName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "perdure.labels" . | nindent 4 }}
spec:
  selector:
    {{- include "perdure.selectorLabels" . | nindent 4 }}
  ports:
    - {name: {{ .component }}, port: {{ .port }}, targetPort: {{ .component }}}
{{- end -}}

{{- define "perdure.storeMetadata" -}}
name: {{ include "perdure.componentName" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "perdure.labels" . | nindent 2 }}
{{- end -}}

{{- /*
The pod's template holds nothing that differs between chart versions (only selector labels, no checksums), and
without persistence a changed one waits until the pod is deleted by hand: replacing the pod would delete the data.
*/ -}}
{{- define "perdure.storeStatefulSet" -}}
{{- $values := index .root.Values.evaluation .component -}}
replicas: 1
serviceName: {{ include "perdure.componentName" . }}
selector:
  matchLabels:
    {{- include "perdure.selectorLabels" . | nindent 4 }}
updateStrategy:
  type: {{ ternary "RollingUpdate" "OnDelete" $values.persistence.enabled }}
{{- if $values.persistence.enabled }}
volumeClaimTemplates:
  - apiVersion: v1
    kind: PersistentVolumeClaim
    metadata:
      name: data
    spec:
      accessModes: [ReadWriteOnce]
      {{- with $values.persistence.storageClassName }}
      storageClassName: {{ . }}
      {{- end }}
      resources:
        requests: {storage: {{ $values.persistence.size }}}
{{- end }}
{{- end -}}

{{- define "perdure.storePod" -}}
{{- $values := index .root.Values.evaluation .component -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "perdure.podSecurityContext" ($values.runAsUser | int) | nindent 2 }}
{{- end -}}

{{- define "perdure.storeVolumes" -}}
- name: tmp
  emptyDir: {}
{{- if not (index .root.Values.evaluation .component).persistence.enabled }}
- name: data
  emptyDir: {}
{{- end }}
{{- end -}}

{{- define "perdure.storeImage" -}}
{{- $image := (index .root.Values.evaluation .component).image -}}
image: {{ include "perdure.image" (dict "image" $image "defaultTag" "latest") }}
imagePullPolicy: {{ $image.pullPolicy }}
{{- end -}}
