//! Why packets are dropped.

/// Declares the reasons once; everything else derives from the table.
macro_rules! drop_reasons {
    ($($variant:ident = $number:literal, $name:literal, $text:literal;)*) => {
        /// Why a packet is dropped, with Cilium's numbers (they are what metrics,
        /// flows and dashboards show).
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $(#[doc = $text] $variant = $number,)*
        }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The reason with this number, or `None`.
            pub const fn from_u8(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name in Hubble's `DropReason` enumeration.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The text that metrics and people see.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

drop_reasons! {
    InvalidSourceIp = 132, "INVALID_SOURCE_IP", "Invalid source ip";
    PolicyDenied = 133, "POLICY_DENIED", "Policy denied";
    InvalidPacket = 134, "INVALID_PACKET_DROPPED", "Invalid packet";
    CtInvalidHeader = 135, "CT_TRUNCATED_OR_INVALID_HEADER", "CT: Truncated or invalid header";
    FragmentationNeeded = 136, "CT_MISSING_TCP_ACK_FLAG", "Fragmentation needed";
    CtUnknownL4Protocol = 137, "CT_UNKNOWN_L4_PROTOCOL", "CT: Unknown L4 protocol";
    UnsupportedL3Protocol = 139, "UNSUPPORTED_L3_PROTOCOL", "Unsupported L3 protocol";
    MissedTailCall = 140, "MISSED_TAIL_CALL", "Missed tail call";
    PacketWrite = 141, "ERROR_WRITING_TO_PACKET", "Error writing to packet";
    UnknownL4Protocol = 142, "UNKNOWN_L4_PROTOCOL", "Unknown L4 protocol";
    UnknownIcmpv4Code = 143, "UNKNOWN_ICMPV4_CODE", "Unknown ICMPv4 code";
    UnknownIcmpv4Type = 144, "UNKNOWN_ICMPV4_TYPE", "Unknown ICMPv4 type";
    UnknownIcmpv6Code = 145, "UNKNOWN_ICMPV6_CODE", "Unknown ICMPv6 code";
    UnknownIcmpv6Type = 146, "UNKNOWN_ICMPV6_TYPE", "Unknown ICMPv6 type";
    TunnelKey = 147, "ERROR_RETRIEVING_TUNNEL_KEY", "Error retrieving tunnel key";
    UnknownL3Target = 150, "UNKNOWN_L3_TARGET_ADDRESS", "Unknown L3 target address";
    StaleOrUnroutableIp = 151, "STALE_OR_UNROUTABLE_IP", "Stale or unroutable IP";
    L3Checksum = 153, "ERROR_WHILE_CORRECTING_L3_CHECKSUM", "Error while correcting L3 checksum";
    L4Checksum = 154, "ERROR_WHILE_CORRECTING_L4_CHECKSUM", "Error while correcting L4 checksum";
    CtMapInsertionFailed = 155, "CT_MAP_INSERTION_FAILED", "CT: Map insertion failed";
    InvalidIpv6ExtensionHeader = 156, "INVALID_IPV6_EXTENSION_HEADER", "Invalid IPv6 extension header";
    IpFragmentationNotSupported = 157, "IP_FRAGMENTATION_NOT_SUPPORTED", "IP fragmentation not supported";
    ServiceBackendNotFound = 158, "SERVICE_BACKEND_NOT_FOUND", "Service backend not found";
    NoTunnelEndpoint = 160, "NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT", "No tunnel/encapsulation endpoint (datapath BUG!)";
    Nat4664NotEnabled = 161, "FAILED_TO_INSERT_INTO_PROXYMAP", "NAT 46/64 not enabled";
    EdtHorizon = 162, "REACHED_EDT_RATE_LIMITING_DROP_HORIZON", "Reached EDT rate-limiting drop horizon";
    UnknownConnectionTrackingState = 163, "UNKNOWN_CONNECTION_TRACKING_STATE", "Unknown connection tracking state";
    LocalHostUnreachable = 164, "LOCAL_HOST_IS_UNREACHABLE", "Local host is unreachable";
    NoPolicyConfiguration = 165, "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION", "No configuration available to perform policy decision";
    UnsupportedL2Protocol = 166, "UNSUPPORTED_L2_PROTOCOL", "Unsupported L2 protocol";
    NoNatMapping = 167, "NO_MAPPING_FOR_NAT_MASQUERADE", "No mapping for NAT masquerade";
    UnsupportedNatProtocol = 168, "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE", "Unsupported protocol for NAT masquerade";
    FibLookupFailed = 169, "FIB_LOOKUP_FAILED", "FIB lookup failed";
    EncapsulationProhibited = 170, "ENCAPSULATION_TRAFFIC_IS_PROHIBITED", "Encapsulation traffic is prohibited";
    InvalidIdentity = 171, "INVALID_IDENTITY", "Invalid identity";
    UnknownSender = 172, "UNKNOWN_SENDER", "Unknown sender";
    NatNotNeeded = 173, "NAT_NOT_NEEDED", "NAT not needed";
    IsAClusterip = 174, "IS_A_CLUSTERIP", "Is a ClusterIP";
    FragmentNotFound = 175, "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND", "First logical datagram fragment not found";
    ForbiddenIcmpv6Message = 176, "FORBIDDEN_ICMPV6_MESSAGE", "Forbidden ICMPv6 message";
    SourceRangeDenied = 177, "DENIED_BY_LB_SRC_RANGE_CHECK", "Denied by LB src range check";
    SocketLookupFailed = 178, "SOCKET_LOOKUP_FAILED", "Socket lookup failed";
    SocketAssignFailed = 179, "SOCKET_ASSIGN_FAILED", "Socket assign failed";
    ProxyUnsupportedProtocol = 180, "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL", "Proxy redirection not supported for protocol";
    PolicyDeny = 181, "POLICY_DENY", "Policy denied by denylist";
    VlanFiltered = 182, "VLAN_FILTERED", "VLAN traffic disallowed by VLAN filter";
    InvalidVni = 183, "INVALID_VNI", "Incorrect VNI from VTEP";
    InvalidTcBuffer = 184, "INVALID_TC_BUFFER", "Failed to update or lookup TC buffer";
    NoSid = 185, "NO_SID", "No SID was found for the IP address";
    MissingSrv6State = 186, "MISSING_SRV6_STATE", "SRv6 state was removed during tail call";
    Nat46 = 187, "NAT46", "L3 translation from IPv4 to IPv6 failed (NAT46)";
    Nat64 = 188, "NAT64", "L3 translation from IPv6 to IPv4 failed (NAT64)";
    AuthRequired = 189, "AUTH_REQUIRED", "Authentication required";
    CtNoMapFound = 190, "CT_NO_MAP_FOUND", "No conntrack map found";
    SnatNoMapFound = 191, "SNAT_NO_MAP_FOUND", "No nat map found";
    InvalidClusterId = 192, "INVALID_CLUSTER_ID", "Invalid ClusterID";
    UnsupportedDsrProtocol = 193, "UNSUPPORTED_PROTOCOL_FOR_DSR_ENCAP", "Unsupported packet protocol for DSR encapsulation";
    NoEgressGateway = 194, "NO_EGRESS_GATEWAY", "No egress gateway found";
    UnencryptedTraffic = 195, "UNENCRYPTED_TRAFFIC", "Traffic is unencrypted";
    TtlExceeded = 196, "TTL_EXCEEDED", "TTL exceeded";
    NoNodeId = 197, "NO_NODE_ID", "No node ID found";
    RateLimited = 198, "DROP_RATE_LIMITED", "Rate limited";
    IgmpHandled = 199, "IGMP_HANDLED", "IGMP handled";
    IgmpSubscribed = 200, "IGMP_SUBSCRIBED", "IGMP subscribed";
    MulticastHandled = 201, "MULTICAST_HANDLED", "Multicast handled";
    HostNotReady = 202, "DROP_HOST_NOT_READY", "Host datapath not ready";
    EndpointNotReady = 203, "DROP_EP_NOT_READY", "Endpoint policy program not available";
    NoEgressIp = 204, "DROP_NO_EGRESS_IP", "No Egress IP configured";
    PuntToProxy = 205, "DROP_PUNT_PROXY", "Punt to proxy";
    NoDevice = 206, "NO_DEVICE", "No device";
    FragmentNotFoundWorld = 207, "DROP_FRAG_NOT_FOUND_WORLD", "First logical datagram fragment not found from world";
}

impl DropReason {
    /// Whether the policy of one of a flow's ends says so.
    #[inline(always)]
    pub const fn is_policy(self) -> bool {
        matches!(
            self,
            Self::PolicyDenied | Self::PolicyDeny | Self::AuthRequired
        )
    }
}

impl core::fmt::Display for DropReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn numbers_round_trip() {
        for &reason in DropReason::ALL {
            assert_eq!(DropReason::from_u8(reason as u8), Some(reason));
        }
        assert_eq!(DropReason::from_u8(0), None);
    }
}
