//! Collections of cases that come with a runner of their own, `check.py`, put to
//! the built program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A collection: the variable that names it, where it is otherwise, and the words
/// after `axon` that answer it.
pub(crate) struct Collection {
    pub(crate) variable: &'static str,
    pub(crate) beside: &'static str,
    pub(crate) verb: &'static str,
}

impl Collection {
    /// Where the cases are, or why there is nothing to run.
    fn cases(&self) -> Result<PathBuf, String> {
        let named = std::env::var_os(self.variable).map(PathBuf::from);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let dir = named.unwrap_or_else(|| root.join(self.beside));
        if !dir.join("check.py").is_file() {
            let Self {
                variable, beside, ..
            } = self;
            return Err(format!(
                "no cases: neither {variable} nor {beside} has a check.py"
            ));
        }
        let python = Command::new("python3").args(["-c", "import yaml"]).output();
        match python {
            Ok(output) if output.status.success() => Ok(dir),
            // Cases are there: not to play them would pass for having played them.
            _ => panic!(
                "the cases of {} need python3 with PyYAML: make setup",
                dir.display()
            ),
        }
    }

    /// Runs them all; says so if it cannot.
    pub(crate) fn check(&self, arguments: &[&str]) {
        let dir = match self.cases() {
            Ok(dir) => dir,
            Err(reason) => {
                println!("skipped: {reason}");
                return;
            }
        };
        let axon = env!("CARGO_BIN_EXE_axon");
        let output = Command::new("python3")
            .arg(dir.join("check.py"))
            .arg(&dir)
            .args(["--cmd", &format!("{axon:?} {}", self.verb)])
            .args(arguments)
            .output()
            .expect("python3");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        println!("{said}");
        assert!(output.status.success(), "{said}");
    }
}
