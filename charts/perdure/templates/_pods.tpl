{{- /* What all pods of the chart have in common. */ -}}

{{- define "perdure.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "perdure.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "perdure.databaseEnv" -}}
- name: PERDURE_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "perdure.storeSecret" (dict "root" . "store" "database") }}
      key: {{ include "perdure.storeKey" (dict "root" . "store" "database") }}
- name: PERDURE_DATABASE_CHECKS
  value: {{ .Values.database.checks }}
- name: PERDURE_LOG_LEVEL
  value: {{ .Values.logging.level }}
- name: PERDURE_LOG_FORMAT
  value: {{ .Values.logging.format }}
{{- end -}}

{{- /* Settings of operator and gateway alike. */ -}}
{{- define "perdure.env" -}}
{{ include "perdure.databaseEnv" . }}
- name: PERDURE_DATABASE_POOL_SIZE
  value: {{ .Values.database.poolSize | quote }}
- name: PERDURE_NATS_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "perdure.storeSecret" (dict "root" . "store" "nats") }}
      key: {{ include "perdure.storeKey" (dict "root" . "store" "nats") }}
- name: PERDURE_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: PERDURE_IDENTITY
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end -}}

{{- /*
Migrates the ledger, or waits for the process that does. Several may run it at once, and on a ledger that is up to date
it does nothing. It is what makes a first install work in any order: with the bundled database, which starts
together with its clients, and without hooks (`helm template | kubectl apply`).
*/ -}}
{{- define "perdure.migrateContainer" -}}
name: migrate
image: {{ include "perdure.ownImage" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [perdure, migrate]
args: [--wait, {{ .Values.migrations.wait | quote }}]
env:
  {{- include "perdure.databaseEnv" . | nindent 2 }}
securityContext:
  {{- include "perdure.securityContext" . | nindent 2 }}
resources:
  requests: {cpu: 20m, memory: 64Mi}
  limits: {memory: 256Mi}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
{{- end -}}

{{- /* A pod's spec but for containers and initContainers. Called with (dict "root" $ "component" "operator"). */ -}}
{{- define "perdure.podPlacement" -}}
{{- $values := index .root.Values .component -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "perdure.podSecurityContext" 65532 | nindent 2 }}
# The variables that Kubernetes derives from Services, such as PERDURE_GATEWAY_PORT, would be taken for settings.
enableServiceLinks: false
volumes:
  - name: tmp
    {{- if eq .component "gateway" }}
    emptyDir: {sizeLimit: {{ .root.Values.gateway.spool.sizeLimit }}}
    {{- else }}
    emptyDir: {}
    {{- end }}
{{- $tls := .root.Values.gateway.tls.secretName }}
{{- if and $tls (eq .component "gateway") }}
  - name: tls
    secret:
      secretName: {{ $tls }}
      items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]
{{- else if and $tls (not .hook) }}
  # Without the key: only the gateway has it.
  - name: gateway-ca
    secret:
      secretName: {{ $tls }}
      items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end -}}

{{- define "perdure.podDisruptionBudget" -}}
{{- $budget := (index .root.Values .component).podDisruptionBudget -}}
{{- if $budget.enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "perdure.componentName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "perdure.labels" . | nindent 4 }}
spec:
  {{- if hasKey $budget "maxUnavailable" }}
  maxUnavailable: {{ $budget.maxUnavailable }}
  {{- else }}
  minAvailable: {{ $budget.minAvailable }}
  {{- end }}
  # A pod that is not ready protects nothing: it must not block a drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "perdure.selectorLabels" . | nindent 6 }}
{{- end -}}
{{- end -}}

{{- define "perdure.serviceAccount" -}}
{{- $account := (index .root.Values .component).serviceAccount -}}
{{- if $account.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "perdure.serviceAccountName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "perdure.labels" . | nindent 4 }}
  {{- with $account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end -}}
{{- end -}}
