//! Services in the kernel as tables.

use axon_api::maps::{
    LbAffinityRow, LbBackendRow, LbList, LbMaglevRow, LbRevnatRow, LbRow, LbSnatRow,
    LbSourceRangeRow,
};
use std::net::SocketAddr;

use crate::output::{or_dash, table};

/// Backends that a table names in a line.
const SHOWN: usize = 8;

/// A port of a service by its name, or its number.
fn service(name: &str, id: u32) -> String {
    match (name, id) {
        ("", 0) => "-".to_owned(),
        ("", id) => format!("number {id}"),
        (name, _) => name.to_owned(),
    }
}

/// Who is in a list, as far as there is room for it.
fn members(list: &LbList) -> String {
    let shown = list.addresses.iter().zip(&list.backends).take(SHOWN);
    let mut words: Vec<String> = shown
        .map(|(address, id)| match address.as_str() {
            "" => format!("missing ({id})"),
            address => address.to_owned(),
        })
        .collect();
    if list.backends.len() > SHOWN {
        words.push(format!("{} more", list.backends.len() - SHOWN));
    }
    or_dash(&words.join(", "))
}

pub(super) fn frontends(rows: &[LbRow]) -> String {
    let header = [
        "FRONTEND",
        "TYPE",
        "SERVICE",
        "BACKENDS",
        "FROM OUTSIDE",
        "FLAGS",
    ];
    let rows = rows.iter().map(|row| {
        let mut flags = row.flags.clone();
        if row.external.maglev != 0 {
            flags.push("maglev".to_owned());
        }
        [
            row.frontend(),
            row.kind.clone(),
            service(&row.service, row.service_id),
            members(&row.internal),
            if row.external.list == row.internal.list {
                "the same".to_owned()
            } else {
                members(&row.external)
            },
            or_dash(&flags.join(", ")),
        ]
    });
    table(header, rows)
}

pub(super) fn backends(rows: &[LbBackendRow]) -> String {
    let header = ["ID", "BACKEND", "STATE", "NODE", "CHOSEN", "SERVICE"];
    let rows = rows.iter().map(|row| {
        let at = SocketAddr::new(row.address, row.port);
        [
            row.id.to_string(),
            format!("{at}/{}", row.protocol),
            row.state.clone(),
            if row.local { "this one" } else { "another" }.to_owned(),
            or_dash(&row.lists.join(", ")),
            service(&row.service, row.service_id),
        ]
    });
    table(header, rows)
}

pub(super) fn maglev(rows: &[LbMaglevRow]) -> String {
    let header = ["TABLE", "SERVICES", "PLACES", "BACKENDS", "LEAST", "MOST"];
    let rows = rows.iter().map(|row| {
        let share = |places: Option<&u32>| places.copied().unwrap_or(0).to_string();
        [
            row.table.to_string(),
            or_dash(&row.services.join(", ")),
            row.places.to_string(),
            row.slots.len().to_string(),
            share(row.slots.iter().min()),
            share(row.slots.iter().max()),
        ]
    });
    table(header, rows)
}

pub(super) fn affinity(rows: &[LbAffinityRow]) -> String {
    let rows = rows.iter().map(|row| {
        [
            service(&row.service, row.service_id),
            row.client.clone(),
            row.asked.clone(),
            row.backend.to_string(),
            format!("{} s", row.idle_s),
        ]
    });
    table(["SERVICE", "CLIENT", "ASKED", "BACKEND", "IDLE"], rows)
}

pub(super) fn source_ranges(rows: &[LbSourceRangeRow]) -> String {
    let rows = rows
        .iter()
        .map(|row| [service(&row.service, row.service_id), row.cidr.clone()]);
    table(["SERVICE", "CIDR"], rows)
}

pub(super) fn revnat(rows: &[LbRevnatRow]) -> String {
    let header = [
        "BY",
        "PROTO",
        "BACKEND",
        "ANSWERS AS",
        "TO",
        "SERVICE",
        "IDLE",
    ];
    let rows = rows.iter().map(|row| {
        [
            row.by.clone(),
            row.protocol.clone(),
            row.backend.to_string(),
            row.frontend.to_string(),
            row.client.clone(),
            service(&row.service, row.service_id),
            row.idle_s
                .map_or_else(|| "-".to_owned(), |idle| format!("{idle} s")),
        ]
    });
    table(header, rows)
}

pub(super) fn snat(rows: &[LbSnatRow]) -> String {
    let header = [
        "PROTO",
        "CLIENT",
        "ASKS",
        "KNOWN AS",
        "TO BACKEND",
        "SERVICE",
        "IDLE",
    ];
    let rows = rows.iter().map(|row| {
        [
            row.protocol.clone(),
            row.client.to_string(),
            row.frontend.to_string(),
            row.known_by.to_string(),
            row.backend.to_string(),
            service(&row.service, row.service_id),
            format!("{} s", row.idle_s),
        ]
    });
    table(header, rows)
}
