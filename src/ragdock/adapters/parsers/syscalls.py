"""Numbers of the system calls that a parser process has no use for (Linux, x86-64 and AArch64).

From the kernel's `arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h`;
a name without a number on AArch64 doesn't exist there.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["CLONE", "CLONE3", "FILES", "FORBIDDEN", "OPENING", "SIGNALS"]


def _table(listing: str) -> dict[str, tuple[int, int | None]]:
    """(x86-64, AArch64) by name."""
    return {
        name: (int(x86), None if arm == "-" else int(arm))
        for name, x86, arm in re.findall(r"(\w+)=(\d+)/(\d+|-)", listing)
    }


FORBIDDEN: Final = _table(
    """
    socket=41/198 socketpair=53/199 connect=42/203 bind=49/200 listen=50/201 accept=43/202
    accept4=288/242
    execve=59/221 execveat=322/281 fork=57/- vfork=58/-
    ptrace=101/117 process_vm_readv=310/270 process_vm_writev=311/271 process_madvise=440/440
    kcmp=312/272 pidfd_open=434/434 pidfd_getfd=438/438 pidfd_send_signal=424/424
    rt_sigqueueinfo=129/138 rt_tgsigqueueinfo=297/240 tkill=200/130
    io_uring_setup=425/425 io_uring_enter=426/426 io_uring_register=427/427
    bpf=321/280 perf_event_open=298/241 userfaultfd=323/282 memfd_create=319/279
    memfd_secret=447/447
    keyctl=250/219 add_key=248/217 request_key=249/218
    mount=165/40 umount2=166/39 pivot_root=155/41 chroot=161/51 unshare=272/97 setns=308/268
    move_mount=429/429 fsopen=430/430 fsconfig=431/431 fsmount=432/432 fspick=433/433
    open_tree=428/428
    init_module=175/105 finit_module=313/273 delete_module=176/106 kexec_load=246/104
    kexec_file_load=320/294 reboot=169/142 swapon=167/224 swapoff=168/225 acct=163/89
    quotactl=179/60 sethostname=170/161 settimeofday=164/170 clock_settime=227/112
    adjtimex=159/171 clock_adjtime=305/266 syslog=103/116 iopl=172/- ioperm=173/- modify_ldt=154/-
    personality=135/92
    open_by_handle_at=304/265 name_to_handle_at=303/264 fanotify_init=300/262 inotify_init=253/-
    inotify_init1=294/26
    shmget=29/194 shmat=30/196 shmctl=31/195 msgget=68/186 msgsnd=69/189 msgrcv=70/188
    semget=64/190 mq_open=240/180
    setuid=105/146 setgid=106/144 setreuid=113/145 setregid=114/143 setresuid=117/147
    setresgid=119/149 setgroups=116/159 capset=126/91
    """
)
"""Network, programs, other processes, the kernel, identities: nothing that reading a file takes."""

FILES: Final = _table(
    """
    unlink=87/- unlinkat=263/35 rename=82/- renameat=264/38 renameat2=316/276 mkdir=83/-
    mkdirat=258/34 rmdir=84/- link=86/- linkat=265/37 symlink=88/- symlinkat=266/36 chmod=90/-
    fchmod=91/52 fchmodat=268/53 fchmodat2=452/452 chown=92/- fchown=93/55 lchown=94/-
    fchownat=260/54 truncate=76/45 mknod=133/- mknodat=259/33 utime=132/- utimes=235/-
    utimensat=280/88 futimesat=261/- setxattr=188/5 lsetxattr=189/6 fsetxattr=190/7
    removexattr=197/14 lremovexattr=198/15 fremovexattr=199/16 creat=85/-
    """
)
"""Changes of the file system."""

OPENING: Final = _table("open=2/- openat=257/56 openat2=437/437")
"""Forbidden too where Landlock can't say which files."""

SIGNALS: Final = _table("kill=62/129 tgkill=234/131")
"""Allowed for the process itself: that is how `abort` ends it."""

CLONE: Final = (56, 220)
"""Allowed for threads."""

CLONE3: Final = (435, 435)
"""Answered with ENOSYS, for which the C library tries `clone`, whose flags a filter can see."""
