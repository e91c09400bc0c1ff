//! Why a packet was dropped. Numbers, texts and enum names are those that users and Hubble clients know.

macro_rules! drop_reasons {
    ($($number:literal $name:ident $text:literal $proto:literal,)*) => {
        /// Why a packet was dropped: a counter, an event field, a metric label and a text to the user.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $(#[doc = $text] $name = $number,)*
        }

        impl DropReason {
            /// Every reason, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason with this number.
            #[must_use]
            pub const fn from_u8(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The text that `monitor`, Hubble and the metrics show.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The name in the flow API's enum.
            #[must_use]
            pub const fn proto_name(self) -> &'static str {
                match self {
                    $(Self::$name => $proto,)*
                }
            }
        }
    };
}

drop_reasons! {
    130 InvalidSourceMac "Invalid source mac" "INVALID_SOURCE_MAC",
    131 InvalidDestinationMac "Invalid destination mac" "INVALID_DESTINATION_MAC",
    132 InvalidSourceIp "Invalid source ip" "INVALID_SOURCE_IP",
    133 PolicyDenied "Policy denied" "POLICY_DENIED",
    134 InvalidPacket "Invalid packet" "INVALID_PACKET_DROPPED",
    135 CtInvalidHeader "CT: Truncated or invalid header" "CT_TRUNCATED_OR_INVALID_HEADER",
    136 FragmentationNeeded "Fragmentation needed" "CT_MISSING_TCP_ACK_FLAG",
    137 CtUnknownL4Protocol "CT: Unknown L4 protocol" "CT_UNKNOWN_L4_PROTOCOL",
    138 CtCannotCreate "CT: Can't create entry from packet" "CT_CANNOT_CREATE_ENTRY_FROM_PACKET",
    139 UnsupportedL3 "Unsupported L3 protocol" "UNSUPPORTED_L3_PROTOCOL",
    140 MissedTailCall "Missed tail call" "MISSED_TAIL_CALL",
    141 ErrorWritingToPacket "Error writing to packet" "ERROR_WRITING_TO_PACKET",
    142 UnknownL4Protocol "Unknown L4 protocol" "UNKNOWN_L4_PROTOCOL",
    143 UnknownIcmpv4Code "Unknown ICMPv4 code" "UNKNOWN_ICMPV4_CODE",
    144 UnknownIcmpv4Type "Unknown ICMPv4 type" "UNKNOWN_ICMPV4_TYPE",
    145 UnknownIcmpv6Code "Unknown ICMPv6 code" "UNKNOWN_ICMPV6_CODE",
    146 UnknownIcmpv6Type "Unknown ICMPv6 type" "UNKNOWN_ICMPV6_TYPE",
    147 ErrorRetrievingTunnelKey "Error retrieving tunnel key" "ERROR_RETRIEVING_TUNNEL_KEY",
    148 ErrorRetrievingTunnelOptions "Error retrieving tunnel options" "ERROR_RETRIEVING_TUNNEL_OPTIONS",
    149 InvalidGeneveOption "Invalid Geneve option" "INVALID_GENEVE_OPTION",
    150 UnknownTarget "Unknown L3 target address" "UNKNOWN_L3_TARGET_ADDRESS",
    151 StaleIp "Stale or unroutable IP" "STALE_OR_UNROUTABLE_IP",
    152 NoLocalContainer "No matching local container found" "NO_MATCHING_LOCAL_CONTAINER_FOUND",
    153 L3Checksum "Error while correcting L3 checksum" "ERROR_WHILE_CORRECTING_L3_CHECKSUM",
    154 L4Checksum "Error while correcting L4 checksum" "ERROR_WHILE_CORRECTING_L4_CHECKSUM",
    155 CtInsertFailed "CT: Map insertion failed" "CT_MAP_INSERTION_FAILED",
    156 InvalidExtensionHeader "Invalid IPv6 extension header" "INVALID_IPV6_EXTENSION_HEADER",
    157 FragmentsUnsupported "IP fragmentation not supported" "IP_FRAGMENTATION_NOT_SUPPORTED",
    158 NoServiceBackend "Service backend not found" "SERVICE_BACKEND_NOT_FOUND",
    160 NoTunnelEndpoint "No tunnel/encapsulation endpoint (datapath BUG!)" "NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT",
    161 Nat46Disabled "NAT 46/64 not enabled" "FAILED_TO_INSERT_INTO_PROXYMAP",
    162 EdtHorizon "Reached EDT rate-limiting drop horizon" "REACHED_EDT_RATE_LIMITING_DROP_HORIZON",
    163 CtUnknownState "Unknown connection tracking state" "UNKNOWN_CONNECTION_TRACKING_STATE",
    164 LocalHostUnreachable "Local host is unreachable" "LOCAL_HOST_IS_UNREACHABLE",
    165 NoPolicyConfig "No configuration available to perform policy decision" "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION",
    166 UnsupportedL2 "Unsupported L2 protocol" "UNSUPPORTED_L2_PROTOCOL",
    167 NatNoMapping "No mapping for NAT masquerade" "NO_MAPPING_FOR_NAT_MASQUERADE",
    168 NatUnsupportedProtocol "Unsupported protocol for NAT masquerade" "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE",
    169 FibLookupFailed "FIB lookup failed" "FIB_LOOKUP_FAILED",
    170 EncapsulationTrafficIsProhibited "Encapsulation traffic is prohibited" "ENCAPSULATION_TRAFFIC_IS_PROHIBITED",
    171 InvalidIdentity "Invalid identity" "INVALID_IDENTITY",
    172 UnknownSender "Unknown sender" "UNKNOWN_SENDER",
    173 NatNotNeeded "NAT not needed" "NAT_NOT_NEEDED",
    174 IsClusterIp "Is a ClusterIP" "IS_A_CLUSTERIP",
    175 FragmentNotFound "First logical datagram fragment not found" "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND",
    176 ForbiddenIcmpv6Message "Forbidden ICMPv6 message" "FORBIDDEN_ICMPV6_MESSAGE",
    177 LbSourceRange "Denied by LB src range check" "DENIED_BY_LB_SRC_RANGE_CHECK",
    178 SocketLookupFailed "Socket lookup failed" "SOCKET_LOOKUP_FAILED",
    179 SocketAssignFailed "Socket assign failed" "SOCKET_ASSIGN_FAILED",
    180 ProxyUnsupportedProtocol "Proxy redirection not supported for protocol" "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL",
    181 PolicyDeny "Policy denied by denylist" "POLICY_DENY",
    182 VlanFiltered "VLAN traffic disallowed by VLAN filter" "VLAN_FILTERED",
    183 InvalidVni "Incorrect VNI from VTEP" "INVALID_VNI",
    184 InvalidTcBuffer "Failed to update or lookup TC buffer" "INVALID_TC_BUFFER",
    185 NoSid "No SID was found for the IP address" "NO_SID",
    186 MissingSrv6State "SRv6 state was removed during tail call" "MISSING_SRV6_STATE",
    187 Nat46 "L3 translation from IPv4 to IPv6 failed (NAT46)" "NAT46",
    188 Nat64 "L3 translation from IPv6 to IPv4 failed (NAT64)" "NAT64",
    189 AuthenticationRequired "Authentication required" "AUTH_REQUIRED",
    190 CtNoMap "No conntrack map found" "CT_NO_MAP_FOUND",
    191 SnatNoMap "No nat map found" "SNAT_NO_MAP_FOUND",
    192 InvalidClusterid "Invalid ClusterID" "INVALID_CLUSTER_ID",
    193 UnsupportedDsrProtocol "Unsupported packet protocol for DSR encapsulation" "UNSUPPORTED_PROTOCOL_FOR_DSR_ENCAP",
    194 NoEgressGateway "No egress gateway found" "NO_EGRESS_GATEWAY",
    195 UnencryptedTraffic "Traffic is unencrypted" "UNENCRYPTED_TRAFFIC",
    196 TtlExceeded "TTL exceeded" "TTL_EXCEEDED",
    197 NoNodeIdFound "No node ID found" "NO_NODE_ID",
    198 RateLimited "Rate limited" "DROP_RATE_LIMITED",
    199 IgmpHandled "IGMP handled" "IGMP_HANDLED",
    200 IgmpSubscribed "IGMP subscribed" "IGMP_SUBSCRIBED",
    201 MulticastHandled "Multicast handled" "MULTICAST_HANDLED",
    202 HostNotReady "Host datapath not ready" "DROP_HOST_NOT_READY",
    203 EndpointNotReady "Endpoint policy program not available" "DROP_EP_NOT_READY",
    204 NoEgressIp "No Egress IP configured" "DROP_NO_EGRESS_IP",
}
