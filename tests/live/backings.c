// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Gives memory of many kinds back, as a process that serves a balloon: what a test of the verdicts traces.
 *
 * At the start it maps one region for each kind of memory, all of one size. Each line of standard input is an order; it is
 * carried out and `done` is printed:
 *
 *   touch KIND [STEP]        write to each STEPth page (a private file's are read; `write` writes to them)
 *   serve KIND CALL PAGES [STEP]  one buffer: CALL (dontneed, remove, punch, both, free, willneed, none) for PAGES pages each, of
 *                            each STEPth such piece; failures of a call are ignored
 *   drop KIND                unmap it
 *   pageout KIND             have the kernel write it to swap
 *   merge                    wait until KSM has merged `ksm`, whose pages are all the same
 *   fork, reap               a child that has all memory too, and its end
 *   pin KIND, unpin          as a buffer of io_uring, as a device would have it
 *   exit
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, BYTES = 48 << 20, PAGES = BYTES / PAGE, HUGE_PAGE = 2 << 20 };

enum kind { ANON, THP, THP_TOO, KSM, MEMFD, FILE_PRIVATE, HUGETLB, HUGETLB_FILE, LOCKED, KINDS };

static const char *const names[KINDS] = { "anon", "thp", "thptoo", "ksm", "memfd", "file", "hugetlb", "hugetlbfile", "locked" };

static struct region {
	char *at;
	int fd;
} regions[KINDS];

static int kick, completion, ring = -1;
static char call[32];
static long each_pages, step = 1;
static enum kind served;
static pid_t child;

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static int file_of(const char *name, unsigned int flags)
{
	int fd = memfd_create(name, flags);

	check(fd >= 0 && !ftruncate(fd, BYTES), name);
	return fd;
}

static void map(enum kind kind, int flags, int fd, const char *what)
{
	/* Room to begin at a huge page, and to keep regions apart. */
	char *room = mmap(NULL, BYTES + 2 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *at;

	check(room != MAP_FAILED, "room");
	at = room + HUGE_PAGE - (uintptr_t)room % HUGE_PAGE;
	regions[kind].at = mmap(at, BYTES, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	regions[kind].fd = fd;
	check(regions[kind].at == at, what);
}

static void map_all(const char *path)
{
	int fd = open(path, O_RDWR);

	check(fd >= 0, path);
	map(ANON, MAP_PRIVATE | MAP_ANONYMOUS, -1, "anon");
	check(!madvise(regions[ANON].at, BYTES, MADV_NOHUGEPAGE), "nohugepage");
	for (int kind = THP; kind <= THP_TOO; kind++) {
		map(kind, MAP_PRIVATE | MAP_ANONYMOUS, -1, "thp");
		check(!madvise(regions[kind].at, BYTES, MADV_HUGEPAGE), "hugepage");
	}
	map(KSM, MAP_PRIVATE | MAP_ANONYMOUS, -1, "ksm");
	check(!madvise(regions[KSM].at, BYTES, MADV_NOHUGEPAGE), "nohugepage");
	check(!madvise(regions[KSM].at, BYTES, MADV_MERGEABLE), "mergeable");
	map(MEMFD, MAP_SHARED, file_of("guest", 0), "memfd");
	map(FILE_PRIVATE, MAP_PRIVATE, fd, "file");
	map(HUGETLB, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, "hugetlb");
	map(HUGETLB_FILE, MAP_SHARED, file_of("huge", MFD_HUGETLB), "hugetlb file");
	map(LOCKED, MAP_PRIVATE | MAP_ANONYMOUS, -1, "locked");
	check(!mlock(regions[LOCKED].at, BYTES), "mlock");
}

static enum kind find(const char *name)
{
	for (int kind = 0; kind < KINDS; kind++)
		if (!strcmp(name, names[kind]))
			return kind;
	check(0, name);
	return 0;
}

static void touch(enum kind kind, long every, int writes)
{
	volatile char *at = regions[kind].at;

	for (long page = 0; page < PAGES; page += every) {
		if (writes)
			at[page * PAGE] = 1;
		else
			(void)at[page * PAGE];
	}
}

static void give_back(long offset, long bytes)
{
	struct region *region = &regions[served];
	int both = !strcmp(call, "both");

	if (!strcmp(call, "punch") || both)
		fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
	if (!strcmp(call, "dontneed") || both)
		madvise(region->at + offset, bytes, MADV_DONTNEED);
	if (!strcmp(call, "remove"))
		madvise(region->at + offset, bytes, MADV_REMOVE);
	if (!strcmp(call, "free"))
		madvise(region->at + offset, bytes, MADV_FREE);
	if (!strcmp(call, "willneed"))
		madvise(region->at + offset, bytes, MADV_WILLNEED);
}

static void *serve(void *unused)
{
	uint64_t value;

	for (;;) {
		check(read(kick, &value, sizeof(value)) == sizeof(value), "read");
		for (long page = 0; page < PAGES; page += each_pages * step)
			give_back(page * PAGE, each_pages * PAGE);
		value = 1;
		check(write(completion, &value, sizeof(value)) == sizeof(value), "write");
	}
	return unused;
}

static void pin(enum kind kind)
{
	struct io_uring_params params = { 0 };
	struct iovec buffer = { regions[kind].at, BYTES };

	ring = syscall(SYS_io_uring_setup, 4, &params);
	check(ring >= 0, "io_uring_setup");
	check(!syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1), "io_uring_register");
}

static void await_merge(void)
{
	for (long merged = 0; merged < PAGES * 9 / 10; usleep(50000)) {
		FILE *file = fopen("/proc/self/ksm_merging_pages", "r");

		check(file && fscanf(file, "%ld", &merged) == 1, "ksm_merging_pages");
		fclose(file);
	}
}

static void obey(const char *line)
{
	char order[16], name[32] = "anon";
	long every = 1;
	uint64_t value = 1;

	check(sscanf(line, "%15s %31s", order, name) >= 1, line);
	if (!strcmp(order, "touch") || !strcmp(order, "write")) {
		sscanf(line, "%*s %*s %ld", &every);
		touch(find(name), every, find(name) != FILE_PRIVATE || !strcmp(order, "write"));
	} else if (!strcmp(order, "serve")) {
		step = 1;
		served = find(name);
		check(sscanf(line, "%*s %*s %31s %ld %ld", call, &each_pages, &step) >= 2, line);
		check(write(kick, &value, sizeof(value)) == sizeof(value), "kick");
		check(read(completion, &value, sizeof(value)) == sizeof(value), "completion");
	} else if (!strcmp(order, "drop")) {
		check(!munmap(regions[find(name)].at, BYTES), "munmap");
	} else if (!strcmp(order, "pageout")) {
		check(!madvise(regions[find(name)].at, BYTES, MADV_PAGEOUT), "pageout");
	} else if (!strcmp(order, "merge")) {
		await_merge();
	} else if (!strcmp(order, "fork")) {
		child = fork();
		check(child >= 0, "fork");
		while (!child)
			pause();
	} else if (!strcmp(order, "reap")) {
		kill(child, SIGKILL);
		check(waitpid(child, NULL, 0) == child, "waitpid");
	} else if (!strcmp(order, "pin")) {
		pin(find(name));
	} else if (!strcmp(order, "unpin")) {
		close(ring);
	} else {
		exit(strcmp(order, "exit"));
	}
}

int main(int count, char **words)
{
	char line[64];
	pthread_t thread;

	check(count == 2, "the name of a file");
	kick = eventfd(0, 0);
	completion = eventfd(0, 0);
	map_all(words[1]);
	check(!pthread_create(&thread, NULL, serve, NULL), "thread");
	printf("serving\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		obey(line);
		printf("done\n");
		fflush(stdout);
	}
	return 0;
}
