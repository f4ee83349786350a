// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Touches pages and gives them back one by one; prints its pid, and for each line of input the nanoseconds that one call took,
 * and those that touching one page took.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 32768 };

static long now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

int main(void)
{
	char line[8];
	char *memory = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED || madvise(memory, (size_t)PAGES * PAGE, MADV_NOHUGEPAGE))
		return 1;
	printf("%d\n", getpid());
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		long touch_ns = now_ns();
		for (long page = 0; page < PAGES; page++)
			memory[page * PAGE] = 1;
		long start_ns = now_ns();
		for (long page = 0; page < PAGES; page++)
			if (madvise(memory + page * PAGE, PAGE, MADV_DONTNEED))
				return 1;
		printf("%.2f %.2f\n", (double)(now_ns() - start_ns) / PAGES, (double)(start_ns - touch_ns) / PAGES);
		fflush(stdout);
	}
	return 0;
}
