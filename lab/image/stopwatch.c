// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Times an inflate or deflate from inside the guest, at next to no cost and without any probe.
 *
 * A balloon without DEFLATE_ON_OOM takes its pages out of the guest's total memory one by one, so sysinfo(2) shows its
 * progress. One line "ready" is printed once the memory at the start is known, one line of JSON at the end. The two
 * moments that matter lie between samples, so the samples on both sides of each are printed: interpolate between them.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>

#define NS_PER_S 1000000000LL
#define EXIT_TIMEOUT 124

struct sample {
	int64_t time_ns; /* CLOCK_MONOTONIC, just before the memory was read */
	int64_t total_bytes;
};

struct request {
	int64_t bytes;
	int64_t direction; /* -1 inflate: total memory falls; +1 deflate: it grows */
	int64_t interval_us;
	int64_t timeout_ns;
};

struct result {
	struct sample start;
	struct sample last_unchanged;
	struct sample first_changed;
	struct sample last_below;
	struct sample reached;
	int64_t samples;
	bool changed;
	bool done;
};

static void die(const char *why)
{
	fprintf(stderr, "stopwatch: %s\n", why);
	exit(2);
}

static struct sample take_sample(void)
{
	struct sysinfo memory;
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	sysinfo(&memory);
	return (struct sample){
		.time_ns = now.tv_sec * NS_PER_S + now.tv_nsec,
		.total_bytes = (int64_t)memory.totalram * memory.mem_unit,
	};
}

/* Sleeps between samples; stops when enough memory has moved since `start`, or at the deadline. */
static struct result watch(const struct request *request, struct sample start)
{
	const struct timespec interval = {
		request->interval_us / 1000000, request->interval_us % 1000000 * 1000,
	};
	struct result r = { .start = start, .samples = 1 };
	struct sample previous = r.start, now;

	while (!r.done) {
		nanosleep(&interval, NULL);
		now = take_sample();
		r.samples++;
		if (!r.changed && now.total_bytes != r.start.total_bytes) {
			r.changed = true;
			r.last_unchanged = previous;
			r.first_changed = now;
		}
		if ((now.total_bytes - r.start.total_bytes) * request->direction >= request->bytes) {
			r.done = true;
			r.last_below = previous;
			r.reached = now;
		} else if (now.time_ns - r.start.time_ns > request->timeout_ns) {
			break;
		}
		previous = now;
	}
	return r;
}

static void print_sample(const char *name, bool known, const struct sample *s)
{
	if (known)
		printf("\"%s\": {\"time_ns\": %" PRId64 ", \"total_bytes\": %" PRId64 "}, ", name, s->time_ns, s->total_bytes);
	else
		printf("\"%s\": null, ", name);
}

static void print_result(const struct request *request, const struct result *r)
{
	printf("{");
	print_sample("start", true, &r->start);
	print_sample("last_unchanged", r->changed, &r->last_unchanged);
	print_sample("first_changed", r->changed, &r->first_changed);
	print_sample("last_below", r->done, &r->last_below);
	print_sample("reached", r->done, &r->reached);
	printf("\"bytes\": %" PRId64 ", \"direction\": \"%s\", \"interval_us\": %" PRId64 ", \"samples\": %" PRId64
	       ", \"done\": %s}\n",
	       request->bytes, request->direction < 0 ? "inflate" : "deflate", request->interval_us, r->samples,
	       r->done ? "true" : "false");
}

static int64_t parse_number(const char *text)
{
	char *end;
	int64_t value = strtoll(text, &end, 10);

	if (*text == '\0' || *end != '\0' || value <= 0)
		die("numbers are whole and greater than zero");
	return value;
}

static int64_t parse_direction(const char *text)
{
	if (strcmp(text, "inflate") == 0)
		return -1;
	if (strcmp(text, "deflate") == 0)
		return 1;
	die("--direction is inflate or deflate");
	return 0;
}

static struct request parse_arguments(int argc, char **argv)
{
	static const struct option options[] = {
		{ "bytes", required_argument, NULL, 'b' },
		{ "direction", required_argument, NULL, 'd' },
		{ "interval-us", required_argument, NULL, 'i' },
		{ "timeout-s", required_argument, NULL, 't' },
		{ NULL, 0, NULL, 0 },
	};
	struct request request = { .direction = -1, .interval_us = 1000, .timeout_ns = 60 * NS_PER_S };

	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1; ) {
		switch (option) {
		case 'b': request.bytes = parse_number(optarg); break;
		case 'd': request.direction = parse_direction(optarg); break;
		case 'i': request.interval_us = parse_number(optarg); break;
		case 't': request.timeout_ns = parse_number(optarg) * NS_PER_S; break;
		default: exit(2);
		}
	}
	if (request.bytes == 0 || optind != argc)
		die("usage: stopwatch --bytes N [--direction inflate|deflate] [--interval-us N] [--timeout-s N]");
	return request;
}

int main(int argc, char **argv)
{
	struct request request = parse_arguments(argc, argv);
	struct sample start;
	struct result result;

	/* Its own pages must not be reclaimed while the balloon squeezes the guest. */
	mlockall(MCL_CURRENT | MCL_FUTURE);
	/* Before "ready": whoever reads that may move the balloon before we run again. */
	start = take_sample();
	printf("ready\n");
	fflush(stdout);
	result = watch(&request, start);
	print_result(&request, &result);
	return result.done ? 0 : EXIT_TIMEOUT;
}
