{{- /* Where the ledger and NATS are: given Secrets, or the bundled ones. */ -}}

{{- define "perdure.checkStores" -}}
{{- $given := list -}}
{{- $missing := list -}}
{{- range $store := list "database" "nats" -}}
{{- if (index $.Values $store).existingSecret -}}
{{- $given = append $given (printf "%s.existingSecret" $store) -}}
{{- else -}}
{{- $missing = append $missing (printf "%s.existingSecret" $store) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.evaluation.enabled $given -}}
{{- fail (printf "\n\nevaluation.enabled=true brings its own Postgres and NATS, but %s is set too.\nUnset it, or set evaluation.enabled=false.\n" (join " and " $given)) -}}
{{- end -}}
{{- if and (not .Values.evaluation.enabled) $missing -}}
{{- fail (printf "\n\nPerdure needs Postgres and NATS. Not set: %s. Either\n  --set evaluation.enabled=true          to try it out: both come along, and their data goes with their pods\nor make Secrets in namespace %s that hold the URLs, such as\n  kubectl create secret generic perdure-database-url -n %s --from-literal=url=postgresql://USER:PASSWORD@HOST:5432/DATABASE\n  kubectl create secret generic perdure-nats-url -n %s --from-literal=url=nats://USER:PASSWORD@HOST:4222\nand name them\n  --set database.existingSecret=perdure-database-url --set nats.existingSecret=perdure-nats-url\n" (join " and " $missing) .Release.Namespace .Release.Namespace .Release.Namespace) -}}
{{- end -}}
{{- end -}}

{{- /* Called with (dict "root" $ "store" "database"); so is the next. */ -}}
{{- define "perdure.storeSecret" -}}
{{- if .root.Values.evaluation.enabled -}}
{{- include "perdure.fullname" .root }}-{{ ternary "postgres" "nats" (eq .store "database") -}}
{{- else -}}
{{- (index .root.Values .store).existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "perdure.storeKey" -}}
{{- if .root.Values.evaluation.enabled -}}
url
{{- else -}}
{{- (index .root.Values .store).key -}}
{{- end -}}
{{- end -}}

{{- /*
A password that is made once: an upgrade finds it in the Secret of the first install. Without a cluster
(`helm template`) it is a new one every time. Called with (dict "root" $ "secret" "name").
*/ -}}
{{- define "perdure.password" -}}
{{- $secret := lookup "v1" "Secret" .root.Release.Namespace .secret | default dict -}}
{{- $kept := get ($secret.data | default dict) "password" -}}
{{- if $kept -}}
{{- b64dec $kept -}}
{{- else -}}
{{- randAlphaNum 32 -}}
{{- end -}}
{{- end -}}
