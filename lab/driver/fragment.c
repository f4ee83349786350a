// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Leaves the guest's free memory in small pieces, as a long life does: fills it page by page, gives most pages back
 * at random, and keeps the others until it is told to end.
 *
 *     fragment --mib MIB [--keep-percent 10] [--seed 1]
 *
 * Prints "kept N of M pages" when done, and ends with SIGTERM or SIGINT (and its memory with it).
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE_BYTES 4096UL
#define MIB_PAGES 256UL

struct options {
	unsigned long mib;
	unsigned long keep_percent;
	unsigned long seed;
};

static void usage(void)
{
	fprintf(stderr, "usage: fragment --mib MIB [--keep-percent 1-99] [--seed NUMBER]\n");
	exit(2);
}

static unsigned long parse_number(const char *text, unsigned long most)
{
	char *end;

	errno = 0;
	unsigned long value = strtoul(text, &end, 10);
	if (errno || end == text || *end || value < 1 || value > most)
		usage();
	return value;
}

static struct options parse_options(int argc, char **argv)
{
	static const struct option LONG[] = {
		{ "mib", required_argument, NULL, 'm' },
		{ "keep-percent", required_argument, NULL, 'k' },
		{ "seed", required_argument, NULL, 's' },
		{ 0 },
	};
	struct options options = { .keep_percent = 10, .seed = 1 };
	int option;

	while ((option = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
		if (option == 'm')
			options.mib = parse_number(optarg, 1UL << 20);
		else if (option == 'k')
			options.keep_percent = parse_number(optarg, 99);
		else if (option == 's')
			options.seed = parse_number(optarg, UINT32_MAX);
		else
			usage();
	}
	if (!options.mib || optind != argc)
		usage();
	return options;
}

/* splitmix64 (Steele, Lea, Flood 2014): the same seed gives the same pattern everywhere. */
static uint64_t next_random(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* Gives each page back, or not; returns how many are kept. */
static unsigned long punch_holes(char *memory, unsigned long pages, const struct options *options)
{
	uint64_t state = options->seed;
	unsigned long kept = 0;

	for (unsigned long page = 0; page < pages; page++) {
		if (next_random(&state) % 100 < options->keep_percent) {
			kept++;
		} else if (madvise(memory + page * PAGE_BYTES, PAGE_BYTES, MADV_DONTNEED) != 0) {
			perror("fragment: madvise");
			exit(1);
		}
	}
	return kept;
}

int main(int argc, char **argv)
{
	const struct options options = parse_options(argc, argv);
	const unsigned long pages = options.mib * MIB_PAGES;
	sigset_t ends;
	int number;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, NULL);

	char *memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		perror("fragment: mmap");
		return 1;
	}
	/* A huge page could not be given back in part without being split first. */
	if (madvise(memory, pages * PAGE_BYTES, MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
		perror("fragment: madvise");
		return 1;
	}
	for (unsigned long page = 0; page < pages; page++)
		memory[page * PAGE_BYTES] = 1;
	printf("kept %lu of %lu pages\n", punch_holes(memory, pages, &options), pages);
	fflush(stdout);
	sigwait(&ends, &number);
	return 0;
}
