// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Behaves as a process that serves a balloon: reads a kick, gives memory back, writes a completion, over and over.
 *
 * Each line of standard input is one order for the serving thread, `KIND CALLS [PAGES]`; the thread that reads it kicks the
 * other one by an eventfd, waits for the completion and prints `done`. KINDs: dontneed, remove, free, willneed,
 * normal, punch, both (punch and dontneed), fail (an unaligned address), empty (no bytes), none, stall (dontneed, and no
 * completion), and any of them once more for memory that it has just been done to, as twice-KIND. `exit` ends it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define TWICE "twice-"

enum { PAGE = 4096, PAGES = 65536 };

struct order {
	char kind[32];
	long calls;
	long pages;
};

static int kick, completion;
static struct order order;
static char *private_memory, *shared_memory;
static int shared_fd;

static void check(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(1);
	}
}

/* The nth call of an order. */
static void call(const char *kind, long number)
{
	long bytes = order.pages * PAGE, offset = number * bytes;
	char *mine = private_memory + offset, *shared = shared_memory + offset;

	if (!strcmp(kind, "dontneed") || !strcmp(kind, "stall"))
		check(!madvise(mine, bytes, MADV_DONTNEED), "dontneed");
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

static void *serve(void *unused)
{
	uint64_t value;

	for (;;) {
		check(read(kick, &value, sizeof(value)) == sizeof(value), "read");
		for (long number = 0; number < order.calls; number++) {
			const char *twice = strncmp(order.kind, TWICE, strlen(TWICE)) ? NULL : order.kind + strlen(TWICE);

			call(twice ? twice : order.kind, number);
			if (twice)
				call(twice, number);
		}
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

int main(void)
{
	char line[64];
	uint64_t value;
	pthread_t thread;

	kick = eventfd(0, 0);
	completion = eventfd(0, 0);
	shared_fd = memfd_create("guest", 0);
	check(shared_fd >= 0 && !ftruncate(shared_fd, (off_t)PAGES * PAGE), "memfd");
	private_memory = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	shared_memory = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
	check(private_memory != MAP_FAILED && shared_memory != MAP_FAILED, "mmap");
	check(!pthread_create(&thread, NULL, serve, NULL), "thread");
	printf("serving %d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "exit", 4))
			return 0;
		order.pages = 1;
		check(sscanf(line, "%31s %ld %ld", order.kind, &order.calls, &order.pages) >= 2, line);
		for (long page = 0; page < order.calls * order.pages && page < PAGES; page++)
			private_memory[page * PAGE] = shared_memory[page * PAGE] = 1;
		value = 1;
		check(write(kick, &value, sizeof(value)) == sizeof(value), "kick");
		check(read(completion, &value, sizeof(value)) == sizeof(value), "completion");
		printf("done\n");
		fflush(stdout);
	}
	return 0;
}
