{{- /*
What the operator may do in a namespace that it watches. It reads no Secrets or ConfigMaps, runs nothing in
pods, and changes no spec: `delete` of workflows is the end of their retention.
*/ -}}
{{- define "perdure.operatorRules" -}}
- apiGroups: [perdure.dev]
  resources: [workflows]
  verbs: [get, list, watch, delete]
- apiGroups: [perdure.dev]
  resources: [agenttasks]
  verbs: [get, list, watch, create, delete]
- apiGroups: [perdure.dev]
  resources: [agenttemplates]
  verbs: [get, list, watch]
- apiGroups: [perdure.dev]
  resources: [workflows/status, agenttasks/status]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
