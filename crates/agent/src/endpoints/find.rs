//! Endpoints by what they are known by.

use std::net::IpAddr;

use super::{Record, Records};
use crate::problem::Refusal;

/// The record that `id` names: `123`, `cilium-local:123`, `cep-name:ns/pod`,
/// `pod-name:ns/pod`, `container-id:ID`, `ipv4:A`, `ipv6:A`,
/// `cni-attachment-id:ID:IF`.
pub(crate) fn find(records: &Records, id: &str) -> Result<Record, Refusal> {
    let is = matcher(id).ok_or_else(|| {
        Refusal::request(
            format!("endpoint id {id:?} is none"),
            "give a number, cep-name:NAMESPACE/POD, container-id:ID, ipv4:ADDRESS, ipv6:ADDRESS \
             or cni-attachment-id:ID:DEVICE",
        )
    })?;
    records
        .all()
        .into_iter()
        .find(|record| is(record))
        .ok_or_else(|| {
            Refusal::absent(
                format!("there is no endpoint {id}"),
                "see axon endpoint list",
            )
        })
}

type Matcher = Box<dyn Fn(&Record) -> bool>;

fn matcher(id: &str) -> Option<Matcher> {
    let number = |text: &str| -> Option<Matcher> {
        let number: u16 = text.parse().ok()?;
        Some(Box::new(move |r: &Record| r.endpoint.id == number))
    };
    let Some((prefix, value)) = id.split_once(':') else {
        return number(id);
    };
    let value = value.to_owned();
    Some(match prefix {
        "cilium-local" => return number(&value),
        "cep-name" | "pod-name" => {
            let (namespace, name) = value.split_once('/')?;
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Box::new(move |r| r.endpoint.namespace == namespace && r.endpoint.name() == name)
        }
        "container-id" => Box::new(move |r| r.endpoint.container_id == value),
        "ipv4" | "ipv6" => {
            let address: IpAddr = value.parse().ok()?;
            Box::new(move |r| super::addresses(&r.endpoint).contains(&address))
        }
        "cni-attachment-id" => Box::new(move |r| super::owner(&r.endpoint) == value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use axon_model::Endpoint;

    use super::find;
    use crate::endpoints::{Record, Records, Stage};

    #[test]
    fn every_form_of_an_id_finds_the_endpoint() {
        let records = Records::default();
        records.adopt(Record {
            endpoint: Endpoint {
                id: 7,
                container_id: "abc".to_owned(),
                container_interface: "eth0".to_owned(),
                namespace: "ns".to_owned(),
                pod_name: "web".to_owned(),
                ipv4: Some([10, 0, 0, 7].into()),
                ipv6: Some("fd00::7".parse().expect("address")),
                ..Endpoint::default()
            },
            mtu: 1500,
            stage: Stage::Made,
        });
        for id in [
            "7",
            "cilium-local:7",
            "cep-name:ns/web",
            "pod-name:ns/web",
            "container-id:abc",
            "ipv4:10.0.0.7",
            "ipv6:fd00:0::7",
            "cni-attachment-id:abc:eth0",
        ] {
            assert_eq!(find(&records, id).expect(id).endpoint.id, 7, "{id}");
        }
        for (id, status) in [
            ("8", 404),
            ("x", 400),
            ("x:7", 400),
            ("cep-name:web", 400),
            ("70000", 400),
        ] {
            assert_eq!(find(&records, id).expect_err(id).status, status, "{id}");
        }
    }
}
