//! Frontends, the choice of backends, and sockets that are led there.

mod choice;
mod frontends;
mod rows;
mod sockets;
