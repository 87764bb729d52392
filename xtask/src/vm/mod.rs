//! `vm`: a command under another kernel, in QEMU, with nothing but itself and busybox.
//!
//! ```text
//!  kernel (Debian's package) ─┐
//!  busybox, modules           ├─► initramfs ─► QEMU (emulated CPU) ─► console here,
//!  command (static), files   ─┘                                       exit status ours
//! ```
//!
//! The CPU is emulated, never KVM: nested guests are too slow or absent on many machines, and
//! what loads under emulation loads everywhere. It is 20 to 30 times slower than the host, so
//! this is for what is right or wrong, not for what is fast.

mod guest;
mod initramfs;
mod kernel;
mod kernels;
mod options;
mod qemu;

use std::process::ExitCode;

use anyhow::Result;

use self::options::Options;
use crate::cache;

pub(crate) use self::kernels::kernels;

/// Boots a kernel, runs the command in it and ends as the command did.
pub(crate) fn vm(args: &[String]) -> Result<ExitCode> {
    let Some(options) = options::parse(args)? else {
        print!("{}", options::HELP);
        return Ok(ExitCode::SUCCESS);
    };
    Ok(ExitCode::from(run(&options)?.status))
}

/// How a command in a guest has ended.
struct Ended {
    /// Its status.
    status: u8,
    /// What the guest's console showed.
    console: String,
}

/// Boots a kernel and runs the command in it.
fn run(options: &Options) -> Result<Ended> {
    let kernel = kernel::fetch(&options.kernel)?;
    let qemu = qemu::fetch()?;
    let busybox = guest::busybox()?;
    let command = guest::command(options)?;
    let modules = kernel.modules(&options.modules)?;
    let image = initramfs::image(&busybox, &modules, &command)?;

    let work = cache::path("vm").join(format!("run-{}", std::process::id()));
    cache::folder(&work)?;
    let initramfs = work.join("initramfs");
    let ended = cache::write(&initramfs, &image, false)
        .and_then(|()| qemu.run(&kernel, &initramfs, &work.join("status"), options));
    cache::remove(&work)?;
    ended
}
