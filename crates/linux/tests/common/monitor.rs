//! What the kernel tells of a node while a test goes on.
#![allow(dead_code, reason = "each test file uses its part")]

use super::Node;

/// Hears what becomes of a node's IPv6 routes; ends when dropped.
pub(crate) struct Monitor {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Monitor {
    pub(crate) fn start(node: &Node) -> Self {
        let mut child = node.spawn("ip", &["-6", "monitor", "route"]);
        let output = std::io::BufReader::new(child.stdout.take().expect("piped"));
        let (mut said, marks) = (false, ["2001:db8:fe::/64", "2001:db8:ff::/64"]);
        let mut monitor = Self {
            child,
            lines: std::io::BufRead::lines(output),
        };
        std::thread::scope(|scope| {
            let listening = scope.spawn(|| monitor.until(marks[0]));
            // It does not say when it listens.
            while !listening.is_finished() {
                let verb = if said { "del" } else { "add" };
                let args = ["-6", "route", verb, "blackhole", marks[0]];
                said ^= node.exec("ip", &args).status.success();
                std::thread::yield_now();
            }
        });
        if said {
            node.exec("ip", &["-6", "route", "del", "blackhole", marks[0]]);
        }
        node.exec("ip", &["-6", "route", "add", "blackhole", marks[1]]);
        monitor.until(marks[1]);
        monitor
    }

    /// All that is said until a line has this text, itself included.
    pub(crate) fn until(&mut self, text: &str) -> String {
        let mut said = String::new();
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            said.push_str(&line);
            said.push('\n');
            if line.contains(text) {
                return said;
            }
        }
        panic!("the monitor ended before {text}: {said}");
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it ends");
    }
}
