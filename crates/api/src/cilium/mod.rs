//! Cilium's objects (`cilium.io/v2`): policies, nodes, identities, endpoints.

mod endpoint;

pub use endpoint::{
    Addressing, CiliumEndpoint, CiliumEndpointStatus, CiliumIdentity, CiliumNode,
    CiliumNodeAddress, CiliumNodeSpec, EndpointIdentity, EndpointNetworking, NodeIpam,
};
