{{/*
Values that are accepted though Hypha does not do what they ask for yet: the path of each, the default at which there is nothing
to say, the key under which the settings have it, and what whoever sets it should know.
*/}}
{{- define "hypha.notYet" -}}
- {value: nodePort.enabled, default: false, text: "services of all types are served, or none: set kubeProxyReplacement"}
- {value: externalIPs.enabled, default: false, text: "services of all types are served, or none: set kubeProxyReplacement"}
- {value: bpf.policyMapMax, default: 16384, key: bpf-policy-map-max, text: "one map serves all pods of a node: the number is that of its rows"}
- {value: identityAllocationMode, default: crd, key: identity-allocation-mode, text: "identities do not come from a key-value store"}
- {value: endpointRoutes.enabled, default: false, key: enable-endpoint-routes, text: "pods have no routes of their own yet; the programs deliver to them"}
- {value: ipMasqAgent.enabled, default: false, key: enable-ip-masq-agent, text: "destinations to leave alone are those of ipv4NativeRoutingCIDR only"}
- {value: egressMasqueradeInterfaces, default: "", key: egress-masquerade-interfaces, text: "packets are masqueraded on all devices of the node"}
- {value: bpf.masquerade, default: true, text: "there is no other masquerading than that in eBPF; pods reach the outside with their own addresses"}
- {value: bpf.hostRouting, default: "", text: "there is no such value; packets bypass the node's stack unless bpf.hostLegacyRouting is true"}
- {value: bpf.tproxy, default: false, key: enable-bpf-tproxy, text: "connections are handed to the proxy by eBPF whatever it says"}
- {value: bpf.preallocateMaps, default: false, key: preallocate-bpf-maps, text: "maps take memory as they fill"}
- {value: bpf.vlanBypass, default: [], key: vlan-bpf-bypass, text: "tagged packets are left to the node's stack"}
- {value: bpf.ctAnyMax, default: 0, text: "all protocols share one map, of the size bpf.ctTcpMax"}
- {value: bpf.monitorFlags, default: all, key: monitor-aggregation-flags, text: "new SYN, FIN and RST are reported whatever it says"}
- {value: installNoConntrackIptablesRules, default: false, key: install-no-conntrack-iptables-rules, text: "Hypha writes no iptables rules"}
- {value: bandwidthManager.enabled, default: false, key: enable-bandwidth-manager, text: "bandwidth annotations of pods have no effect yet"}
- {value: bandwidthManager.bbr, default: false, key: enable-bbr, text: "bandwidth annotations of pods have no effect yet"}
- {value: hubble.eventQueueSize, default: "", key: hubble-event-queue-size, text: "events are read from the kernel's ring without a queue between"}
- {value: hubble.dropEventEmitter.enabled, default: false, key: hubble-drop-events, text: "there are no events for dropped packets yet"}
- {value: hubble.skipUnknownCGroupIDs, default: "", text: "translations of services are told of pods alone"}
- {value: dnsProxy.enableDnsCompression, default: true, key: tofqdns-enable-dns-compression, text: "DNS answers stay as servers sent them, or are cut for clients that take less"}
- {value: dnsProxy.enableTransparentMode, default: true, key: dnsproxy-enable-transparent-mode, text: "DNS servers see the pod's address whatever it says"}
- {value: dnsProxy.preCache, default: "", key: tofqdns-pre-cache, text: "names are kept over restarts by the agent itself"}
- {value: dnsProxy.proxyPort, default: 0, key: tofqdns-proxy-port, text: "the proxy listens in a network of its own, where its ports are in nobody's way"}
- {value: dnsProxy.socketLingerTimeout, default: 10, key: dnsproxy-socket-linger-timeout, text: "connections to DNS servers are closed at once"}
- {value: ingressController.enabled, default: false, key: enable-ingress-controller, text: "Ingress is not served yet"}
- {value: gatewayAPI.enabled, default: false, key: enable-gateway-api, text: "the Gateway API is not served yet"}
- {value: clustermesh.useAPIServer, default: false, text: "clusters are not connected yet"}
- {value: clustermesh.config.enabled, default: false, text: "clusters are not connected yet"}
- {value: encryption.enabled, default: false, text: "packets between nodes are not encrypted yet"}
- {value: bgpControlPlane.enabled, default: false, key: enable-bgp-control-plane, text: "routes are not announced by BGP yet"}
- {value: gke.enabled, default: false, text: "there are no settings for this cloud; set routing and ipam yourself"}
- {value: eni.enabled, default: false, text: "addresses do not come from this cloud yet"}
- {value: azure.enabled, default: false, text: "addresses do not come from this cloud yet"}
- {value: cni.chainingMode, default: none, key: cni-chaining-mode, text: "the plugin works alone"}
- {value: cni.uninstall, default: false, text: "the CNI configuration stays on the nodes; hypha node-setup uninstall-cni takes it away"}
- {value: tls.secretsBackend, default: local, text: "agents read Secrets of tls.secretsNamespace.name alone"}
- {value: debug.verbose, default: "", key: debug-verbose, text: "debug.enabled logs everything"}
- {value: upgradeCompatibility, default: "", text: "there is no earlier release to be compatible with"}
{{- end }}

{{/*
A value by its path as text, so that 1, "1" and a list can be compared; nothing where it is not set. Takes {root, path}.
*/}}
{{- define "hypha.at" -}}
{{- $here := .root }}
{{- range $step := splitList "." .path }}
{{- if kindIs "map" $here }}
{{- $here = get $here $step }}
{{- else }}
{{- $here = "" }}
{{- end }}
{{- end }}
{{- include "hypha.text" $here }}
{{- end }}

{{/*
A value as the settings write it: lists with commas, numbers without an exponent.
*/}}
{{- define "hypha.text" -}}
{{- if kindIs "slice" . }}{{ join "," . }}
{{- else if kindIs "map" . }}{{ toJson . }}
{{- else if kindIs "float64" . }}{{ if eq (float64 (int64 .)) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else if not (kindIs "invalid" .) }}{{ toString . }}
{{- end }}
{{- end }}

{{/*
What was set and is not done, one line each. Takes the root.
*/}}
{{- define "hypha.notDone" -}}
{{- range include "hypha.notYet" . | fromYamlArray }}
{{- $set := include "hypha.at" (dict "root" $.Values "path" .value) }}
{{- if and (ne $set "") (ne $set (include "hypha.text" .default)) }}
{{ .value }}={{ $set }} has no effect: {{ .text }}
{{- end }}
{{- end }}
{{- if and .Values.l7Proxy (not .Values.envoy.enabled) }}
l7Proxy=true has no effect: envoy.enabled is false, and agents have no proxy within; policies about requests are refused
{{- end }}
{{- if eq .Values.bpf.datapathMode "netkit" }}
bpf.datapathMode=netkit works as netkit-l2: the programs need link-layer addresses
{{- end }}
{{- end }}
