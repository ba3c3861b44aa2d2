{{- /*
What the operator may do in a namespace that it watches. It reads no Secrets or ConfigMaps, runs nothing in
pods, and changes one field of a spec only: it creates Workflows for `workflow` steps and schedules, and patches
`desiredState` of those that a schedule replaces. `delete` of workflows is the end of their retention. Jobs are
not watched: their pods are.
*/ -}}
{{- define "perdure.operatorRules" -}}
- apiGroups: [perdure.dev]
  resources: [workflows]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [perdure.dev]
  resources: [agenttasks]
  verbs: [get, list, watch, create, delete]
- apiGroups: [perdure.dev]
  resources: [agenttemplates, workflowtemplates, workflowschedules]
  verbs: [get, list, watch]
- apiGroups: [perdure.dev]
  resources: [workflows/status, agenttasks/status, workflowschedules/status]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, create, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# `list`: why a pod does not start is often in its Events only.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch, list]
{{- end -}}
