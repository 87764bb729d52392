//! The compiler and linker for BPF programs.
//!
//! A BPF target has no prebuilt `core`, so its source must belong to the compiler, and
//! bpf-linker must read the bitcode of that compiler's LLVM. Debian keeps such a pair
//! (rustc-web, LLVM) together; unpacked to the cache it changes nothing in the system.
//! The other way is a rustup toolchain with the component rust-src, and bpf-linker on the
//! search path; the build script of `crates/linux` takes whichever it finds.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::say;
use crate::apt::Apt;
use crate::{cache, cmd};

const LINKER_VERSION: &str = "0.13.0";
/// Raised when the wrappers' form changes, so that they are written again.
const LAYOUT: &str = "2";
const WRAPPERS: &[&str] = &[
    "rustc",
    "bpf-linker",
    "llvm-nm",
    "llvm-objcopy",
    "llvm-objdump",
];

/// Where the wrappers are, at a path that no version is part of.
fn folder() -> PathBuf {
    cache::path("bpf-toolchain")
}

/// Whether BPF programs can be built here.
pub(super) fn is_ready() -> bool {
    let stamp = std::fs::read_to_string(folder().join("stamp")).unwrap_or_default();
    let cached = stamp == self::stamp() && WRAPPERS.iter().all(|name| folder().join(name).exists());
    cached || (rustup_has_source() && cmd::which("bpf-linker").is_some())
}

/// Brings the toolchain into the cache.
pub(super) fn install(force: bool) -> Result<()> {
    if is_ready() && !force {
        say("BPF toolchain", "ok");
        return Ok(());
    }
    let apt = Apt::of_this_release().context(
        "no BPF toolchain: either Debian's is taken apart (below), or do it by hand:\n  \
         rustup component add rust-src && cargo install bpf-linker\n",
    )?;
    let compiler = compiler(&apt)?;
    let library = compiler.join("usr/lib").join(triplet());
    let linker = linker(&apt, &library)?;
    write_wrappers(&compiler, &library, &linker)?;
    prove()?;
    say("BPF toolchain", &format!("ok ({})", folder().display()));
    Ok(())
}

/// Unpacks Debian's compiler with the source of `core` and its LLVM.
fn compiler(apt: &Apt) -> Result<PathBuf> {
    let version = apt.version("rustc-web")?.replace(':', "_");
    let prefix = cache::path("rustc").join(&version);
    if prefix.join("usr/bin/rustc").exists() {
        say("rustc for BPF", "ok");
        return Ok(prefix);
    }
    say(
        "rustc for BPF",
        &format!("unpacking {version} (a download of 140 MB) ..."),
    );
    let driver = dependency(apt, "libstd-rust-web-dev", "libstd-rust-web-")?;
    let llvm = dependency(apt, &driver, "libllvm")?;
    cache::folder(&cache::path("rustc"))?;
    cache::build(&prefix, |into| {
        apt.unpack(
            &["rustc-web", "libstd-rust-web-dev", &driver, "rust-web-src"],
            into,
        )?;
        // LLVM may need libraries that a small system lacks.
        apt.unpack_with_missing(&llvm, "", into)?;
        // The compiler's own source is half of the size and of no use here.
        let source = into.join("usr/lib/rustlib/src/rust");
        cache::remove(&source.join("compiler"))?;
        cache::remove(&source.join("src"))
    })?;
    Ok(prefix)
}

/// Builds bpf-linker against the compiler's LLVM and keeps it with LLVM's small tools.
fn linker(apt: &Apt, library: &Path) -> Result<PathBuf> {
    let driver = dependency(apt, "libstd-rust-web-dev", "libstd-rust-web-")?;
    let llvm = dependency(apt, &driver, "libllvm")?;
    let major = llvm.trim_start_matches("libllvm").to_owned();
    let version = apt.version(&llvm)?.replace(':', "_");
    let place = cache::path("bpf-linker").join(format!("{LINKER_VERSION}-llvm-{version}"));
    if place.join("bin/bpf-linker").exists() {
        say("bpf-linker", "ok");
        return Ok(place);
    }
    say(
        "bpf-linker",
        &format!("building {LINKER_VERSION}, once (a minute) ..."),
    );
    let work = cache::path("bpf-linker-build");
    cache::folder(&cache::path("bpf-linker"))?;
    cache::build(&work, |into| {
        let development = [
            &llvm,
            &format!("llvm-{major}-dev"),
            &format!("libpolly-{major}-dev"),
            &format!("llvm-{major}"),
        ];
        let mut packages: Vec<&str> = development.iter().map(|name| name.as_str()).collect();
        packages.push("libzstd-dev");
        apt.unpack(&packages, into)
    })?;
    let built = cache::build(&place, |into| build_linker(&major, &work, library, into));
    cache::remove(&work)?;
    built.map(|()| place)
}

fn build_linker(major: &str, work: &Path, library: &Path, into: &Path) -> Result<()> {
    let llvm = work.join(format!("usr/lib/llvm-{major}"));
    let mut cargo = cmd::cargo();
    cargo.args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--quiet",
    ]);
    cargo.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{major}"),
    ]);
    cargo
        .arg("--root")
        .arg(into)
        .arg("--target-dir")
        .arg(work.join("target"));
    // llvm-sys names its variable after LLVM's first minor version, which is 1 since LLVM 18.
    cargo
        .env(format!("LLVM_SYS_{major}1_PREFIX"), &llvm)
        .env("LLVM_PREFIX", &llvm);
    let libraries = work.join("usr/lib").join(triplet());
    cargo.env("LD_LIBRARY_PATH", library);
    cargo.env("RUSTFLAGS", format!("-Lnative={}", libraries.display()));
    cmd::quiet(&mut cargo)?;
    for tool in WRAPPERS.iter().filter(|name| name.starts_with("llvm-")) {
        let (from, to) = (llvm.join("bin").join(tool), into.join("bin").join(tool));
        std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    cmd::quiet(cmd::command("strip").arg(into.join("bin/bpf-linker")))
}

/// Writes the programs that build scripts call: each finds its own libraries.
fn write_wrappers(compiler: &Path, library: &Path, linker: &Path) -> Result<()> {
    cache::folder(&folder())?;
    let library = format!(
        "{}:{}",
        library.display(),
        compiler.join("lib").join(triplet()).display()
    );
    for name in WRAPPERS {
        let call = match *name {
            "rustc" => format!("{0}/usr/bin/rustc --sysroot {0}/usr", compiler.display()),
            _ => format!("{}/bin/{name}", linker.display()),
        };
        let script = format!(
            "#!/bin/sh\n\
             LD_LIBRARY_PATH={library}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}} exec {call} \"$@\"\n"
        );
        cache::write(&folder().join(name), script.as_bytes(), true)?;
    }
    let env = format!(
        "# To build BPF programs by hand: `. {0}/env`, then in crates/bpf\n\
         # cargo build --release -Zbuild-std=core --target bpfel-unknown-none\n\
         export RUSTC={0}/rustc RUSTC_BOOTSTRAP=1\n\
         export RUSTFLAGS='--cfg=bpf_target_arch=\"{1}\" -Cdebuginfo=2 -Ctarget-cpu=v3 \
         -Clinker={0}/bpf-linker -Clink-arg=--btf'\n",
        folder().display(),
        std::env::consts::ARCH,
    );
    cache::write(&folder().join("env"), env.as_bytes(), false)
}

/// Makes sure that both start and that the source of `core` is where cargo looks.
fn prove() -> Result<()> {
    let sysroot = cmd::output(cmd::command(folder().join("rustc")).args(["--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    if !core.exists() {
        bail!(
            "the compiler came without the source of core: {} is missing",
            core.display()
        );
    }
    cmd::quiet(cmd::command(folder().join("bpf-linker")).arg("--version"))?;
    cache::write(&folder().join("stamp"), stamp().as_bytes(), false)
}

fn stamp() -> String {
    format!("layout {LAYOUT} bpf-linker {LINKER_VERSION}\n")
}

/// The dependency of a package whose name begins so: how Debian names the version.
fn dependency(apt: &Apt, package: &str, prefix: &str) -> Result<String> {
    apt.depends(package)?
        .into_iter()
        .find(|name| name.starts_with(prefix))
        .with_context(|| format!("Debian's {package} depends on no {prefix}*"))
}

/// Debian's name of this machine's libraries folder.
fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// Whether the rustup toolchain in use has the source of `core`.
fn rustup_has_source() -> bool {
    cmd::output(cmd::command("rustc").args(["--print", "sysroot"])).is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .exists()
    })
}
