//! Debian's kernels: fetched, unpacked, and the ELF image taken out of its wrapper.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::{cache, cmd};

/// The kernels that are supported, and where Debian keeps them.
const KERNELS: &[(&str, &[&str])] = &[
    ("5.10", &["bullseye-security"]),
    ("6.1", &["bookworm", "bookworm-security"]),
    ("6.12", &["bookworm-backports"]),
    // Whatever is newest there.
    ("7", &["trixie-backports"]),
];

/// Always points to the newest build of a kernel; small, and with what a cloud machine needs.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// What the image's package is cut into, since 7.0.
const PARTS: &[&str] = &["linux-binary-", "linux-modules-"];

/// An unpacked kernel.
pub(super) struct Kernel {
    folder: PathBuf,
}

/// A kernel module, unpacked, ready for insmod.
pub(super) struct Module {
    /// The file's name in the guest.
    pub(super) name: String,
    /// Its content.
    pub(super) content: Vec<u8>,
}

/// The kernels' names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KERNELS.iter().map(|(name, _)| *name)
}

/// Brings a kernel into the cache, if it is not there yet.
pub(super) fn fetch(version: &str) -> Result<Kernel> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("virtual machines are set up for x86_64 only");
    }
    let Some((_, suites)) = KERNELS.iter().find(|(name, _)| *name == version) else {
        let names: Vec<&str> = names().collect();
        bail!("no kernel {version}; there are {}", names.join(", "));
    };
    let folder = cache::path("vm/kernel").join(version);
    if !folder.exists() {
        eprintln!("vm: fetching Debian's kernel {version} ...");
        let apt = Apt::suites(suites)?;
        let package = apt
            .depends(META_PACKAGE)?
            .into_iter()
            .find(|name| name.starts_with("linux-image-"))
            .with_context(|| format!("{META_PACKAGE} names no kernel"))?;
        let mut packages = apt.depends(&package)?;
        packages.retain(|name| PARTS.iter().any(|part| name.starts_with(part)));
        if packages.is_empty() {
            packages.push(package);
        }
        cache::folder(&cache::path("vm/kernel"))?;
        cache::build(&folder, |into| {
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            apt.unpack(&packages, into)?;
            let wrapped = wrapped_image(into)?;
            let image = fs::read(&wrapped).context("cannot read the kernel's image")?;
            cache::write(&into.join("vmlinux"), &unwrap_image(&image)?, false)?;
            cache::remove(&into.join("boot"))
        })?;
    }
    Ok(Kernel { folder })
}

/// Where a package has put the image; modules are below `lib` then.
fn wrapped_image(folder: &Path) -> Result<PathBuf> {
    if folder.join("boot").exists() {
        return only_file(&folder.join("boot"), "vmlinuz-");
    }
    fs::rename(folder.join("usr/lib"), folder.join("lib")).context("no modules in the packages")?;
    let release = only_file(&folder.join("lib/modules"), "")?;
    only_file(&release, "vmlinuz")
}

impl Kernel {
    /// The image to boot: the bare ELF file, which spares the guest seconds of unpacking.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// Modules by name with those they depend on, in the order in which they can be loaded.
    pub(super) fn modules(&self, names: &[String]) -> Result<Vec<Module>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let release = only_file(&self.folder.join("lib/modules"), "")?;
        let mut files = BTreeMap::new();
        find_modules(&release, &mut files)?;
        let built_in = fs::read_to_string(release.join("modules.builtin")).unwrap_or_default();
        let built_in: Vec<String> = built_in.lines().map(|line| stem(Path::new(line))).collect();
        let mut load = Load {
            files,
            built_in,
            done: Vec::new(),
            modules: Vec::new(),
        };
        names
            .iter()
            .try_for_each(|name| load.add(&name.replace('-', "_")))?;
        Ok(load.modules)
    }
}

/// The modules gathered so far, dependencies first.
struct Load {
    files: BTreeMap<String, PathBuf>,
    built_in: Vec<String>,
    done: Vec<String>,
    modules: Vec<Module>,
}

impl Load {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.done.iter().any(|done| done == name) {
            return Ok(());
        }
        self.done.push(name.into());
        let Some(file) = self.files.get(name).cloned() else {
            if self.built_in.iter().any(|built_in| built_in == name) {
                return Ok(());
            }
            bail!("this kernel has no module {name}");
        };
        let packed = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let content = match file.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => unpack(&["xz", "-dc"], &packed)?,
            Some("zst") => unpack(&["zstd", "-qdc"], &packed)?,
            _ => packed,
        };
        dependencies(&content)
            .iter()
            .try_for_each(|name| self.add(name))?;
        self.modules.push(Module {
            name: format!("{name}.ko"),
            content,
        });
        Ok(())
    }
}

/// The names in a module's `depends=` record.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let rest = module.get(at + KEY.len()..).unwrap_or_default();
    let record = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let record = String::from_utf8_lossy(record).replace('-', "_");
    record
        .split(',')
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect()
}

fn find_modules(folder: &Path, into: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, into)?;
        } else if path.to_string_lossy().contains(".ko") {
            into.insert(stem(&path), path);
        }
    }
    Ok(())
}

/// A module's name as the kernel says it.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko")
        .next()
        .unwrap_or_default()
        .replace('-', "_")
}

/// The ELF file inside a bzImage, by the offsets in its header (Documentation/arch/x86/boot.rst).
fn unwrap_image(image: &[u8]) -> Result<Vec<u8>> {
    let byte = |at: usize| image.get(at).copied().unwrap_or_default();
    let word = |at: usize| u32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("the kernel's image is no bzImage");
    }
    let setup_sectors = if byte(0x1f1) == 0 {
        4
    } else {
        usize::from(byte(0x1f1))
    };
    let start = (setup_sectors + 1) * 512 + usize::try_from(word(0x248))?;
    // The last four bytes are the unpacked size, no part of the stream.
    let end = start + usize::try_from(word(0x24c))?.saturating_sub(4);
    let stream = image
        .get(start..end)
        .context("the kernel's image is cut short")?;
    let elf = match stream {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => unpack(&["zstd", "-qdc"], stream)?,
        [0xfd, b'7', b'z', b'X', ..] => unpack(&["xz", "-dc", "--single-stream"], stream)?,
        [0x1f, 0x8b, ..] => unpack(&["gzip", "-dc"], stream)?,
        [0x02, 0x21, 0x4c, 0x18, ..] => unpack(&["lz4", "-dc"], stream)?,
        _ => bail!("the kernel's image is packed in a way that is not known here"),
    };
    if !elf.starts_with(b"\x7fELF") {
        bail!("the kernel's image holds no ELF file");
    }
    Ok(elf)
}

/// Pipes bytes through a program.
fn unpack(command: &[&str], packed: &[u8]) -> Result<Vec<u8>> {
    let [program, args @ ..] = command else {
        bail!("no program")
    };
    let mut child = cmd::command(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}; Debian's package has its name"))?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(packed));
        let output = child
            .wait_with_output()
            .with_context(|| format!("{program} died"))?;
        let written = writer.join().is_ok_and(|result| result.is_ok());
        if !output.status.success() || !written {
            bail!("{program}: {}", output.status);
        }
        Ok(output.stdout)
    })
}

/// The first entry of a folder whose name begins so.
fn only_file(folder: &Path, prefix: &str) -> Result<PathBuf> {
    fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .with_context(|| format!("nothing in {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_of_a_module() {
        let module = b"\x7fELF...\0license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0name=vxlan\0";
        assert_eq!(dependencies(module), ["udp_tunnel", "ip6_udp_tunnel"]);
        assert_eq!(
            dependencies(b"\0depends=\0name=veth\0"),
            Vec::<String>::new()
        );
        assert_eq!(
            stem(Path::new("kernel/net/ipv4/ip-tunnel.ko.xz")),
            "ip_tunnel"
        );
    }

    #[test]
    fn an_image_that_is_none_is_refused() {
        let mut image = vec![0; 0x1000];
        assert!(unwrap_image(&image).is_err());
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(unwrap_image(&image).is_err());
        assert!(unwrap_image(&[]).is_err());
    }
}
