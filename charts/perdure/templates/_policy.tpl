{{- /* What the policies for agents share, for one rule. `variables.groups` is a list of lists of agent blocks. */ -}}

{{- define "perdure.policyVariables" -}}
- name: wrongAccounts
  expression: >-
    {{ with .serviceAccounts }}variables.groups.map(g, g.filter(a, has(a.serviceAccountName)
    && !(a.serviceAccountName in {{ toJson . }})).map(a, a.serviceAccountName).join(', ')).filter(t, t != '')
    {{- else }}[]{{ end }}
- name: wrongImages
  expression: >-
    {{ with .images }}variables.groups.map(g, g.filter(a, has(a.image)
    && !{{ toJson . }}.exists(p, a.image.startsWith(p))).map(a, a.image).join(', ')).filter(t, t != '')
    {{- else }}[]{{ end }}
{{- end -}}

{{- define "perdure.policyValidations" -}}
- expression: size(variables.wrongAccounts) == 0
  reason: Forbidden
  messageExpression: >-
    'agent.serviceAccountName: rule {{ .name }} does not allow ' + variables.wrongAccounts.join(', ')
    + {{ printf ". Use one of: %s" (join ", " .serviceAccounts) | quote }}
- expression: size(variables.wrongImages) == 0
  reason: Forbidden
  messageExpression: >-
    'agent.image: rule {{ .name }} does not allow ' + variables.wrongImages.join(', ')
    + {{ printf ". An image must start with: %s" (join ", " .images) | quote }}
{{- if eq (default "Allow" .podTemplate) "Deny" }}
- expression: variables.groups.all(g, g.all(a, !has(a.podTemplate)))
  reason: Forbidden
  message: 'agent.podTemplate: rule {{ .name }} allows none. Remove it'
{{- end }}
{{- end -}}
