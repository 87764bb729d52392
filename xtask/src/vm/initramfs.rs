//! The guest's file system: an uncompressed cpio archive (newc) made in memory.

use super::guest::Command;
use super::kernel::Module;
use anyhow::{Result, bail};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Folders that the guest's mounts and programs expect.
const FOLDERS: &[&str] = &[
    "bin",
    "dev",
    "etc",
    "lib",
    "lib/modules",
    "proc",
    "run",
    "sys",
    "tmp",
    "usr",
    "var",
    "work",
];

/// Puts busybox, modules, the command and its files together.
pub(super) fn image(busybox: &[u8], modules: &[Module], command: &Command) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.add(folder, FOLDER, b"")?;
    }
    archive.add("bin/busybox", PROGRAM, busybox)?;
    for module in modules {
        archive.add(
            &format!("lib/modules/{}", module.name),
            PROGRAM,
            &module.content,
        )?;
    }
    for (path, content) in &command.files {
        let path = format!("work/{path}");
        // cpio wants each folder before what is in it; naming one twice does no harm.
        for (at, _) in path.match_indices('/').skip(1) {
            archive.add(&path[..at], FOLDER, b"")?;
        }
        archive.add(&path, PROGRAM, content)?;
    }
    archive.add("init", PROGRAM, init(modules, command).as_bytes())?;
    archive.finish()
}

/// The first process: mounts, modules, the command, and its status on the second serial line.
fn init(modules: &[Module], command: &Command) -> String {
    let insmod: String = modules
        .iter()
        .map(|module| format!("insmod /lib/modules/{}\n", module.name))
        .collect();
    let environment: String = command
        .environment
        .iter()
        .map(|(key, value)| format!("export {key}={}\n", quote(value)))
        .collect();
    let quoted = |words: &[String]| -> String {
        let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
        words.join(" ")
    };
    let mut line = quoted(&command.words);
    if !command.then.is_empty() {
        line = format!("{line} && {}", quoted(&command.then));
    }
    format!(
        "#!/bin/busybox sh\n\
         /bin/busybox --install -s /bin\n\
         export PATH=/bin HOME=/ TMPDIR=/tmp\n\
         mount -t proc none /proc\n\
         mount -t sysfs none /sys\n\
         mount -t devtmpfs none /dev\n\
         mkdir -p /dev/pts /dev/shm\n\
         mount -t devpts none /dev/pts\n\
         mount -t tmpfs none /dev/shm\n\
         mount -t tmpfs none /run\n\
         mount -t cgroup2 none /sys/fs/cgroup\n\
         mount -t bpf none /sys/fs/bpf\n\
         mount -t tracefs none /sys/kernel/tracing 2>/dev/null\n\
         touch /etc/hosts /etc/resolv.conf\n\
         ip link set lo up\n\
         ulimit -l unlimited\n\
         {insmod}\
         {environment}\
         echo up > /dev/ttyS1\n\
         cd /work\n\
         {line}\n\
         echo exit $? > /dev/ttyS1\n\
         poweroff -f\n"
    )
}

/// A word as the shell reads it back unchanged.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A cpio archive in the making (`man 5 cpio`, "New ASCII Format").
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        let Ok(size) = u32::try_from(content.len()) else {
            bail!("{name} is too big for cpio")
        };
        let Ok(name_size) = u32::try_from(name.len() + 1) else {
            bail!("the name is too long")
        };
        self.entries += 1;
        let links = 1;
        // inode, mode, uid, gid, links, mtime, size, device (2), of a node (2), name, checksum
        let fields = [
            self.entries,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        self.add("TRAILER!!!", 0, b"")?;
        Ok(self.bytes)
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_padding_are_as_cpio_has_them() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let fixed = "07070100000001000081ed000000000000000000000001000000000000000500000000000000\
                     0000000000000000000000000500000000";
        assert_eq!(fixed.len(), 110);
        assert!(bytes.starts_with(fixed.as_bytes()));
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0".split_at(14).0);
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn words_reach_the_command_unchanged() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
        let command = Command {
            words: vec!["sh".into(), "-c".into(), "exit 3".into()],
            ..Command::default()
        };
        assert!(init(&[], &command).contains("\n'sh' '-c' 'exit 3'\necho exit $? > /dev/ttyS1\n"));
    }
}
