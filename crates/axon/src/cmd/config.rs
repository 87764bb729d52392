//! `axon config`.

use axon_api::agent::ConfigView;

use crate::client::Common;
use crate::failure::{ABSENT, Failure};
use crate::output::{or_dash, print, table};

/// Arguments of `axon config`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Only these options.
    options: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut config: ConfigView = args.common.client().get("/v1/config")?;
    if !args.options.is_empty() {
        if let Some(unknown) = args
            .options
            .iter()
            .find(|o| !config.options.contains_key(*o))
        {
            return Err(Failure::new(format!("there is no option {unknown:?}"))
                .remedy("`axon config` lists them all")
                .code(ABSENT));
        }
        config.options.retain(|name, _| args.options.contains(name));
        config.origins.retain(|name, _| args.options.contains(name));
    }
    print(args.common.output, &config, render)
}

fn render(config: &ConfigView) -> String {
    let rows = config.options.iter().map(|(name, value)| {
        let origin = config.origins.get(name).map_or("default", String::as_str);
        [name.clone(), or_dash(value), origin.to_owned()]
    });
    table(["OPTION", "VALUE", "FROM"], rows)
}

#[cfg(test)]
mod tests {
    use axon_api::agent::ConfigView;

    #[test]
    fn values_come_with_their_origin() {
        let mut config = ConfigView::default();
        config.options.insert("mtu".to_owned(), "1400".to_owned());
        config.options.insert("devices".to_owned(), String::new());
        config.origins.insert("mtu".to_owned(), "flag".to_owned());
        assert_eq!(
            super::render(&config),
            "OPTION   VALUE  FROM\ndevices  -      default\nmtu      1400   flag\n"
        );
    }
}
