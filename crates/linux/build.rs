//! Builds the kernel programs (`crates/bpf`) for the BPF target and hands the
//! object to the crate, which embeds it.
//!
//! The compiler is, in this order:
//! 1. none: `AXON_BPF_OBJECT` names an object made before;
//! 2. the present toolchain, if it has its library's source, and `bpf-linker`;
//! 3. the pair that `make setup` has put into the cache.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use object::{Object, ObjectSymbol};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TARGET: &str = "bpfel-unknown-none";

/// What compiles and links for the BPF target.
struct Toolchain {
    rustc: PathBuf,
    linker: PathBuf,
    objcopy: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    println!("cargo::rerun-if-env-changed=AXON_BPF_OBJECT");
    println!("cargo::rerun-if-env-changed=AXON_CACHE");
    let out = PathBuf::from(env::var("OUT_DIR")?).join("axon_bpf.o");
    let given = env::var_os("AXON_BPF_OBJECT").filter(|path| !path.is_empty());
    // What is given is not the variant that tests want.
    if let Some(path) = given.filter(|_| variant().is_none()) {
        let path = PathBuf::from(path);
        println!("cargo::rerun-if-changed={}", path.display());
        fs::copy(&path, &out)
            .map_err(|e| format!("AXON_BPF_OBJECT={} cannot be read: {e}", path.display()))?;
    } else {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .canonicalize()?;
        watch(&crates);
        let toolchain = find_toolchain()?;
        let built = compile(&toolchain, &crates.join("bpf"))?;
        strip(&toolchain, &built.join("axon-bpf"), &out)?;
        // For benchmarks only; it has no debug sections worth the work.
        fs::copy(built.join("axon-floor"), out.with_file_name("axon_floor.o"))?;
    }
    refuse_panics(&out)
}

fn watch(crates: &Path) {
    for path in [
        "bpf/src",
        "bpf/Cargo.toml",
        "bpf/Cargo.lock",
        "bpf/.cargo/config.toml",
        "datapath/src",
        "datapath/Cargo.toml",
        "abi/src",
        "abi/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", crates.join(path).display());
    }
}

fn find_toolchain() -> Result<Toolchain> {
    if let Some(toolchain) = present_toolchain() {
        return Ok(toolchain);
    }
    let dir = cache().join("bpf-toolchain");
    let (rustc, linker) = (dir.join("rustc"), dir.join("bpf-linker"));
    println!("cargo::rerun-if-changed={}", rustc.display());
    if rustc.exists() && linker.exists() {
        let objcopy = Some(dir.join("llvm-objcopy")).filter(|path| path.exists());
        return Ok(Toolchain {
            rustc,
            linker,
            objcopy,
        });
    }
    Err(format!(
        "no compiler for BPF programs: run `make setup` (it fills {}), or add rust-src and \
         bpf-linker to the toolchain, or name a prebuilt object in AXON_BPF_OBJECT",
        dir.display()
    )
    .into())
}

/// The toolchain that runs this script, if it can do it.
fn present_toolchain() -> Option<Toolchain> {
    let rustc = PathBuf::from(env::var_os("RUSTC")?);
    let output = Command::new(&rustc)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    let core = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let linker = in_path("bpf-linker").filter(|_| core.exists())?;
    Some(Toolchain {
        rustc,
        linker,
        objcopy: in_path("llvm-objcopy"),
    })
}

fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

fn cache() -> PathBuf {
    let home = || env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    env::var_os("AXON_CACHE").map_or_else(
        || {
            env::var_os("XDG_CACHE_HOME")
                .map_or_else(|| home().join(".cache"), PathBuf::from)
                .join("axoneme")
        },
        PathBuf::from,
    )
}

/// Whether cargo or rustup has set a variable for this script, which would
/// mislead the inner build.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let kept = ["CARGO_HOME", "RUSTUP_HOME"];
    !kept.contains(&name.as_ref())
        && (["CARGO", "RUST", "DEP_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            || [
                "TARGET",
                "HOST",
                "OUT_DIR",
                "PROFILE",
                "OPT_LEVEL",
                "DEBUG",
                "NUM_JOBS",
            ]
            .contains(&name.as_ref()))
}

/// The feature of the programs that this build has, for tests of upgrades.
fn variant() -> Option<&'static str> {
    let features = [
        ("CARGO_FEATURE_NEXT_LAYOUT", "next-layout"),
        ("CARGO_FEATURE_OTHER_PROGRAMS", "other-programs"),
    ];
    let on = features
        .into_iter()
        .find(|(set, _)| env::var_os(set).is_some());
    on.map(|(_, feature)| feature)
}

fn compile(toolchain: &Toolchain, dir: &Path) -> Result<PathBuf> {
    // Kept between builds and shared by all profiles, so that an edit costs seconds.
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let folder = variant().map_or_else(|| "bpf".to_owned(), |feature| format!("bpf-{feature}"));
    let target_dir = out_dir.ancestors().nth(4).unwrap_or(&out_dir).join(folder);
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    // Flags and target stand in crates/bpf/.cargo/config.toml.
    let output = command
        .current_dir(dir)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_TARGET_DIR", &target_dir)
        .args(["build", "--release", "--locked", "--bins"])
        .args(
            variant()
                .into_iter()
                .flat_map(|feature| ["--features", feature]),
        )
        .output()?;
    if !output.status.success() {
        return Err(format!(
            "building the kernel programs failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    Ok(target_dir.join(TARGET).join("release"))
}

/// Debug sections are nine tenths of the object; BTF with its line numbers
/// stays, for the verifier's messages.
fn strip(toolchain: &Toolchain, from: &Path, to: &Path) -> Result<()> {
    if let Some(objcopy) = &toolchain.objcopy {
        let status = Command::new(objcopy)
            .arg("--strip-debug")
            .args([from, to])
            .status()?;
        if status.success() {
            return Ok(());
        }
    }
    fs::copy(from, to)?;
    Ok(())
}

/// A panic in the kernel is no way out: the programs must not contain one.
fn refuse_panics(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let file = object::File::parse(bytes.as_slice())
        .map_err(|e| format!("{} is no object file: {e}", path.display()))?;
    let names = file
        .symbols()
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned));
    let panics: Vec<String> = names
        .filter(|name| name.contains("panick") || name.contains("rust_begin_unwind"))
        .collect();
    if panics.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "a panic is reachable in the kernel programs: {}",
            panics.join(", ")
        )
        .into())
    }
}
