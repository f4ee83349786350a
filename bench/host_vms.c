// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Many processes that serve balloons as VMMs do, and what goes on with them by orders on standard input, a line each:
 *
 *   start N OTHERS   N processes that have /dev/kvm open and are called vm1, vm2 ...; OTHERS that have not
 *   serve ROUNDS     each of the N serves so many buffers of 256 calls; prints the calls of all and the ns they took
 *   churn N MS       N more, one after the other, each of which serves a buffer each 100 ms and lives for so long; 25 at once
 *   end              all end
 *
 * Each order ends in a line of output.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, CALLS = 256, MOST = 1024, AT_ONCE = 25, BEAT_MS = 100 };

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

static void sleep_ms(long ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

/* One buffer, by one thread: it kicks itself, for only what it reads and writes is seen. */
static void serve_buffer(char *memory, int kick, int done)
{
	uint64_t one = 1;

	check(write(kick, &one, sizeof(one)) == sizeof(one), "kick");
	check(read(kick, &one, sizeof(one)) == sizeof(one), "kicked");
	for (int call = 0; call < CALLS; call++)
		check(!madvise(memory + call * PAGE, PAGE, MADV_DONTNEED), "madvise");
	one = 1;
	check(write(done, &one, sizeof(one)) == sizeof(one), "done");
	check(read(done, &one, sizeof(one)) == sizeof(one), "clear");
}

/* What such a process does: buffers as standard input says, until it ends; or for so many ms. */
static int be_vmm(long lives_ms)
{
	char *memory = mmap(NULL, CALLS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int kick = eventfd(0, 0), done = eventfd(0, 0);
	uint32_t rounds;

	check(memory != MAP_FAILED, "mmap");
	for (int64_t end_ns = now_ns() + lives_ms * 1000000; lives_ms && now_ns() < end_ns; sleep_ms(BEAT_MS))
		serve_buffer(memory, kick, done);
	while (!lives_ms && read(0, &rounds, sizeof(rounds)) == sizeof(rounds)) {
		while (rounds--)
			serve_buffer(memory, kick, done);
		check(write(1, "", 1) == 1, "answer");
	}
	return 0;
}

static pid_t start(const char *self, int number, int has_kvm, int in, int out, long lives_ms)
{
	char name[32], lives[32];
	pid_t child = fork();

	check(child >= 0, "fork");
	if (child)
		return child;
	snprintf(name, sizeof(name), "guest=vm%d", number);
	snprintf(lives, sizeof(lives), "%ld", lives_ms);
	check(dup2(in, 0) == 0 && dup2(out, 1) == 1, "dup2");
	close_range(3, ~0U, 0);
	check(!has_kvm || open("/dev/kvm", O_RDONLY) >= 0, "/dev/kvm");
	execl(self, self, "vmm", lives, "-name", name, NULL);
	check(0, "exec");
	return 0;
}

int main(int count, char **words)
{
	static pid_t pids[MOST];
	static int orders[MOST];
	int answers[2], started = 0, all = 0, number = 0;
	char line[64], answer;
	long first, second;

	if (count > 2 && !strcmp(words[1], "vmm"))
		return be_vmm(atol(words[2]));
	check(!pipe2(answers, O_CLOEXEC), "pipe");
	signal(SIGPIPE, SIG_IGN);
	while (fgets(line, sizeof(line), stdin)) {
		first = second = 0;
		sscanf(line, "%*s %ld %ld", &first, &second);
		if (!strncmp(line, "start", 5)) {
			for (; all < first + second && all < MOST; all++) {
				int order[2];

				check(!pipe2(order, O_CLOEXEC), "pipe");
				pids[all] = start(words[0], ++number, all < first, order[0], answers[1], 0);
				close(order[0]);
				orders[all] = order[1];
			}
			started = first;
			printf("started %d\n", all);
		} else if (!strncmp(line, "serve", 5)) {
			uint32_t rounds = first;
			int64_t start_ns = now_ns();

			for (int each = 0; each < started; each++)
				check(write(orders[each], &rounds, sizeof(rounds)) == sizeof(rounds), "order");
			for (int each = 0; each < started; each++)
				check(read(answers[0], &answer, 1) == 1, "answer");
			printf("served %ld %ld\n", started * first * CALLS, (long)(now_ns() - start_ns));
		} else if (!strncmp(line, "churn", 5)) {
			pid_t alive[AT_ONCE] = { 0 };

			for (long each = 0; each < first + AT_ONCE; each++) {
				pid_t *place = &alive[each % AT_ONCE];

				if (*place)
					check(waitpid(*place, NULL, 0) == *place, "waitpid");
				*place = each < first ? start(words[0], ++number, 1, 0, answers[1], second) : 0;
				if (each < AT_ONCE)
					sleep_ms(second / AT_ONCE);
			}
			printf("churned %ld\n", first);
		} else if (!strncmp(line, "end", 3)) {
			for (int each = 0; each < all; each++) {
				close(orders[each]);
				check(waitpid(pids[each], NULL, 0) == pids[each], "waitpid");
			}
			printf("ended\n");
			return 0;
		}
		fflush(stdout);
	}
	return 0;
}
