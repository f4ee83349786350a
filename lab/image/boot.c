// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * First program of a lab guest: loads the few modules the root file system needs, mounts everything, starts /lab/init.
 *
 * It is /init of an initramfs that holds nothing but this static program and the modules, already decompressed and in
 * the order in which they load (/modules/000, 001, ...). Debian's own initramfs does the same with udev, shell scripts
 * and 36 MB to unpack, which is most of a boot under emulation.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ROOT_DEVICE "/dev/vda"
#define ROOT_WAIT_MS 20000

struct file_system {
	const char *source;
	const char *target;
	const char *type;
	unsigned long flags;
	const char *options;
};

/*
 * Mounted after the root file system became "/", in this order. The exchange folder is uncached, so that both sides see
 * files at once. The repository is read-only with a writable layer of the guest's own above it, where Python keeps what
 * it has compiled: under emulation compiling takes longer than everything else in a start.
 */
static const struct file_system FILE_SYSTEMS[] = {
	{ "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
	{ "sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
	{ "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666" },
	{ "tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, NULL },
	{ "tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755" },
	{ "debugfs", "/sys/kernel/debug", "debugfs", 0, NULL },
	{ "tracefs", "/sys/kernel/tracing", "tracefs", 0, NULL },
	{ "bpf", "/sys/fs/bpf", "bpf", 0, "mode=700" },
	{ "cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
	{ "repo", "/lab/repo", "9p", MS_RDONLY, "trans=virtio,version=9p2000.L,msize=262144,cache=loose" },
	{ "overlay", "/repo", "overlay", 0, "lowerdir=/lab/repo,upperdir=/lab/repo-upper,workdir=/lab/repo-work" },
	{ "io", "/io", "9p", 0, "trans=virtio,version=9p2000.L,msize=262144,cache=none" },
};

/* Says why on the console and resets the machine, which ends QEMU (-no-reboot). */
static void give_up(const char *what, const char *name)
{
	dprintf(STDERR_FILENO, "lab boot: %s %s: %s\n", what, name, strerror(errno));
	sync();
	reboot(RB_AUTOBOOT);
	_exit(1);
}

static void make_folder(const char *path)
{
	if (mkdir(path, 0755) != 0 && errno != EEXIST)
		give_up("cannot make", path);
}

static void attach(const struct file_system *fs)
{
	make_folder(fs->target);
	if (mount(fs->source, fs->target, fs->type, fs->flags, fs->options) == 0)
		return;
	/* ENODEV: a kernel without 9p, to which the same folders are given in another way. */
	if (errno != ENODEV || strcmp(fs->type, "9p") != 0 ||
	    mount(fs->source, fs->target, "virtiofs", fs->flags, NULL) != 0)
		give_up("cannot mount", fs->target);
}

/* What udev would make; devtmpfs has only devices. */
static void link_standard_streams(void)
{
	static const char *const LINKS[][2] = {
		{ "/proc/self/fd", "/dev/fd" },
		{ "/proc/self/fd/0", "/dev/stdin" },
		{ "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" },
	};

	for (size_t i = 0; i < sizeof(LINKS) / sizeof(LINKS[0]); i++)
		if (symlink(LINKS[i][0], LINKS[i][1]) != 0)
			give_up("cannot make", LINKS[i][1]);
}

/* The folder is memory, so each module is removed once it is loaded. */
static void load_modules(void)
{
	char path[64];

	for (int i = 0; ; i++) {
		snprintf(path, sizeof(path), "/modules/%03d", i);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			return;
		/* ENODEV: e.g. the accelerated variant of a checksum on a CPU without the instruction. */
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST && errno != ENODEV))
			give_up("cannot load", path);
		close(fd);
		unlink(path);
	}
}

static void wait_for_root_device(void)
{
	const struct timespec one_ms = { 0, 1000000 };

	for (int i = 0; access(ROOT_DEVICE, F_OK) != 0; i++) {
		if (i == ROOT_WAIT_MS)
			give_up("no disk", ROOT_DEVICE);
		nanosleep(&one_ms, NULL);
	}
}

static void enter_root(void)
{
	make_folder("/root");
	wait_for_root_device();
	if (mount(ROOT_DEVICE, "/root", "ext4", MS_NOATIME, NULL) != 0)
		give_up("cannot mount", ROOT_DEVICE);
	if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) != 0 || chdir("/root") != 0 ||
	    mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
		give_up("cannot enter", "/root");
}

static void open_console(void)
{
	int fd = open("/dev/console", O_RDWR);

	for (int target = 0; fd >= 0 && target <= 2; target++)
		dup2(fd, target);
	if (fd > 2)
		close(fd);
}

int main(void)
{
	char *const argv[] = { "/lab/init", NULL };
	const struct file_system devices = { "devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL };

	attach(&devices);
	open_console();
	load_modules();
	enter_root();
	for (size_t i = 0; i < sizeof(FILE_SYSTEMS) / sizeof(FILE_SYSTEMS[0]); i++)
		attach(&FILE_SYSTEMS[i]);
	link_standard_streams();
	sethostname("lab", strlen("lab"));
	execv(argv[0], argv);
	give_up("cannot start", argv[0]);
}
