// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Behaves as a process that serves a balloon: reads a kick, gives memory back, writes a completion, over and over.
 *
 * Each line of standard input is one order for the serving thread, `KIND CALLS [PAGES]`; the thread that reads it kicks the
 * other one by an eventfd, waits for the completion and prints `done`. KINDs: dontneed, remove, free, willneed,
 * normal, punch, both (punch and dontneed), fail (an unaligned address), empty (no bytes), none, stall (dontneed, and no
 * completion), spin (dontneed, and as long between calls as it takes to get there; what was spent inside calls and between
 * them goes to standard error), way (empty; what that took goes there too), and any of them once more for memory that it has just been done to, as twice-KIND. `exit`
 * ends it.
 *
 * MADV_DONTNEED of other memory than pages of its own: huge (in huge pages), shared (of a memfd), file (of a private mapping
 * of it, read only), copied (the same, written to), zero (never written to), forked (shared with a child), held (lying in a
 * pipe).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TWICE "twice-"

enum { PAGE = 4096, PAGES = 65536, HUGE_PAGE = 2 << 20, SPIN_NS = 20000, INSIDE = 0, BETWEEN = 1 };

struct order {
	char kind[32];
	long calls;
	long pages;
};

static int kick, completion;
static struct order order;
static char *private_memory, *shared_memory, *huge_memory, *copied_memory, *zero_memory;
static int shared_fd, held[2];
static int64_t spent_ns[2]; /* told after the completion: to write it takes time too */

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

static int64_t now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

/* What calls take that do nothing: the way into the kernel and back, and a look at the clock. */
static void go_there_and_back(void)
{
	int64_t start_ns = now_ns();

	for (long number = 0; number < order.calls; number++) {
		check(!madvise(private_memory, 0, MADV_DONTNEED), "way");
		now_ns();
	}
	spent_ns[INSIDE] = now_ns() - start_ns;
	spent_ns[BETWEEN] = 0;
}

/* Serves an order with as much work between calls as a slow device has. */
static void spin(void)
{
	int64_t start_ns = now_ns(), inside_ns = 0, at_ns = start_ns;

	for (long number = 0; number < order.calls; number++) {
		int64_t until_ns = at_ns + SPIN_NS;

		while (at_ns < until_ns)
			at_ns = now_ns();
		check(!madvise(private_memory + number * order.pages * PAGE, order.pages * PAGE, MADV_DONTNEED), "spin");
		inside_ns -= at_ns;
		at_ns = now_ns();
		inside_ns += at_ns;
	}
	spent_ns[INSIDE] = inside_ns;
	spent_ns[BETWEEN] = at_ns - start_ns - inside_ns;
}

/* The nth call of an order. */
static void call(const char *kind, long number)
{
	long bytes = order.pages * PAGE, offset = number * bytes;
	char *mine = private_memory + offset, *shared = shared_memory + offset;

	if (!strcmp(kind, "dontneed") || !strcmp(kind, "stall") || !strcmp(kind, "forked") || !strcmp(kind, "held"))
		check(!madvise(mine, bytes, MADV_DONTNEED), "dontneed");
	else if (!strcmp(kind, "huge"))
		check(!madvise(huge_memory + offset, bytes, MADV_DONTNEED), "huge");
	else if (!strcmp(kind, "shared"))
		check(!madvise(shared, bytes, MADV_DONTNEED), "shared");
	else if (!strcmp(kind, "file") || !strcmp(kind, "copied"))
		check(!madvise(copied_memory + offset, bytes, MADV_DONTNEED), "copied");
	else if (!strcmp(kind, "zero"))
		check(!madvise(zero_memory + offset, bytes, MADV_DONTNEED), "zero");
	else if (!strcmp(kind, "free"))
		check(!madvise(mine, bytes, MADV_FREE), "free");
	else if (!strcmp(kind, "willneed"))
		check(!madvise(shared, bytes, MADV_WILLNEED), "willneed");
	else if (!strcmp(kind, "normal"))
		check(!madvise(mine, bytes, MADV_NORMAL), "normal");
	else if (!strcmp(kind, "remove"))
		check(!madvise(shared, bytes, MADV_REMOVE), "remove");
	else if (!strcmp(kind, "fail"))
		check(madvise(mine + 1, bytes, MADV_DONTNEED) == -1, "fail");
	else if (!strcmp(kind, "empty"))
		check(!madvise(mine, 0, MADV_DONTNEED), "empty");
	if (!strcmp(kind, "punch") || !strcmp(kind, "both"))
		check(!fallocate(shared_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes), "punch");
	if (!strcmp(kind, "both"))
		check(!madvise(shared, bytes, MADV_DONTNEED), "both");
}

static void call_each(void)
{
	const char *twice = strncmp(order.kind, TWICE, strlen(TWICE)) ? NULL : order.kind + strlen(TWICE);

	for (long number = 0; number < order.calls; number++) {
		call(twice ? twice : order.kind, number);
		if (twice)
			call(twice, number);
	}
}

static void *serve(void *unused)
{
	uint64_t value;

	for (;;) {
		check(read(kick, &value, sizeof(value)) == sizeof(value), "read");
		if (!strcmp(order.kind, "spin"))
			spin();
		else if (!strcmp(order.kind, "way"))
			go_there_and_back();
		else
			call_each();
		if (!strcmp(order.kind, "stall")) {
			printf("stalled\n");
			fflush(stdout);
			pause();
		}
		value = 1;
		check(write(completion, &value, sizeof(value)) == sizeof(value), "write");
	}
	return unused;
}

static char *map(int flags, int fd, size_t more_bytes)
{
	char *memory = mmap(NULL, (size_t)PAGES * PAGE + more_bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	check(memory != MAP_FAILED, "mmap");
	return memory;
}

/* Uses the memory that an order is about, so that it is there. Returns the child that shares it, or 0. */
static pid_t use_memory(const char *kind)
{
	volatile char seen;
	pid_t child = 0;

	for (long page = 0; page < order.calls * order.pages && page < PAGES; page++) {
		long offset = page * PAGE;

		private_memory[offset] = shared_memory[offset] = 1;
		if (!strcmp(kind, "huge"))
			huge_memory[offset] = 1;
		if (!strcmp(kind, "file"))
			seen = copied_memory[offset];
		if (!strcmp(kind, "copied"))
			copied_memory[offset] = 1;
		if (!strcmp(kind, "zero"))
			seen = zero_memory[offset];
		if (!strcmp(kind, "held")) {
			struct iovec piece = { private_memory + offset, PAGE };

			check(vmsplice(held[1], &piece, 1, 0) == PAGE, "vmsplice");
		}
	}
	(void)seen;
	if (!strcmp(kind, "forked")) {
		child = fork();
		check(child >= 0, "fork");
		while (!child)
			pause();
	}
	return child;
}

int main(void)
{
	char line[64];
	uint64_t value;
	pthread_t thread;
	pid_t child;

	kick = eventfd(0, 0);
	completion = eventfd(0, 0);
	shared_fd = memfd_create("guest", 0);
	check(shared_fd >= 0 && !ftruncate(shared_fd, (off_t)PAGES * PAGE), "memfd");
	check(!pipe(held), "pipe");
	private_memory = map(MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	zero_memory = map(MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	huge_memory = map(MAP_PRIVATE | MAP_ANONYMOUS, -1, HUGE_PAGE);
	huge_memory += -(uintptr_t)huge_memory % HUGE_PAGE;
	copied_memory = map(MAP_PRIVATE, shared_fd, 0);
	shared_memory = map(MAP_SHARED, shared_fd, 0);
	check(!madvise(private_memory, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE), "nohugepage");
	check(!madvise(zero_memory, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE), "nohugepage");
	check(!madvise(huge_memory, (size_t)PAGES * PAGE, MADV_HUGEPAGE), "hugepage");
	check(!pthread_create(&thread, NULL, serve, NULL), "thread");
	printf("serving %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "exit", 4))
			return 0;
		order.pages = 1;
		check(sscanf(line, "%31s %ld %ld", order.kind, &order.calls, &order.pages) >= 2, line);
		child = use_memory(order.kind);
		value = 1;
		check(write(kick, &value, sizeof(value)) == sizeof(value), "kick");
		check(read(completion, &value, sizeof(value)) == sizeof(value), "completion");
		if (child) {
			kill(child, SIGKILL);
			check(waitpid(child, NULL, 0) == child, "waitpid");
		}
		if (!strcmp(order.kind, "spin") || !strcmp(order.kind, "way"))
			fprintf(stderr, "spent %ld %ld\n", (long)spent_ns[INSIDE], (long)spent_ns[BETWEEN]);
		printf("done\n");
		fflush(stdout);
	}
	return 0;
}
