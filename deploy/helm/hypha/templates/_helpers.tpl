{{/* An image's reference. Takes {image, root}; what the image leaves empty is as in the values' own image. */}}
{{- define "hypha.image" -}}
{{- $all := .root.Values.image }}
{{- $own := .image }}
{{- $override := $own.override | default $all.override }}
{{- if $override }}{{ $override }}
{{- else }}
{{- $repository := $own.repository | default $all.repository }}
{{- $tag := $own.tag | default $all.tag | default .root.Chart.AppVersion }}
{{- $digest := $own.digest | default $all.digest }}
{{- $repository }}:{{ $tag }}{{ if $digest }}@{{ $digest }}{{ end }}
{{- end }}
{{- end }}

{{- define "hypha.pullPolicy" -}}
{{ .image.pullPolicy | default .root.Values.image.pullPolicy }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "hypha.labels" -}}
app.kubernetes.io/part-of: cilium
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Whether there is a proxy on every node; nothing where not. */}}
{{- define "hypha.proxy" -}}
{{- if and .Values.l7Proxy .Values.envoy.enabled }}true{{ end }}
{{- end }}

{{/* Where the API server is, for every container that asks it. */}}
{{- define "hypha.apiServerEnv" -}}
{{- if .Values.k8sServiceHost }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .Values.k8sServiceHost | quote }}
{{- end }}
{{- if .Values.k8sServicePort }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ include "hypha.text" .Values.k8sServicePort | quote }}
{{- end }}
{{- end }}

{{/* GET /healthz of this host. Takes {port, probe}. */}}
{{- define "hypha.probe" -}}
httpGet:
  host: "127.0.0.1"
  path: /healthz
  port: {{ int .port }}
  scheme: HTTP
  httpHeaders:
  - name: brief
    value: "true"
failureThreshold: {{ int .probe.failureThreshold }}
periodSeconds: {{ int .probe.periodSeconds }}
successThreshold: 1
timeoutSeconds: 5
{{- end }}

{{/* A checksum of the settings, for pods that are to start anew with them. */}}
{{- define "hypha.configChecksum" -}}
{{ include (print .Template.BasePath "/configmap.yaml") . | sha256sum }}
{{- end }}

{{/* CiliumPodIPPools to make, as the operator's setting has them: by name, "ipv4-cidrs:10.0.0.0/16;ipv4-mask-size:27". */}}
{{- define "hypha.pools" -}}
{{- $pools := dict }}
{{- range $name, $pool := .Values.ipam.operator.autoCreateCiliumPodIPPools }}
{{- $parts := list }}
{{- range $family := list "ipv4" "ipv6" }}
{{- with get $pool $family }}
{{- $parts = append $parts (printf "%s-cidrs:%s" $family (join "," .cidrs)) }}
{{- $parts = append $parts (printf "%s-mask-size:%d" $family (int .maskSize)) }}
{{- end }}
{{- end }}
{{- $pools = merge $pools (dict $name (join ";" $parts)) }}
{{- end }}
{{- if $pools }}{{ toJson $pools }}{{ end }}
{{- end }}
