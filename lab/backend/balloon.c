// SPDX-License-Identifier: GPL-2.0-or-later
/* Reads buffers as PFN arrays or page bitmaps, gives the pages back to the kernel, and writes down what it did. */
#include "balloon.h"

#include "decode.h"
#include "little.h"

#include <inttypes.h>
#include <sys/mman.h>

#define RESPONSE_HEADER_BYTES 8u
#define PFN_BYTES 4u

/* One buffer while it is served. */
struct job {
	struct balloon *balloon;
	const struct memory *memory;
	enum queue queue;
	struct totals done;
	uint64_t header;
	const char *refusal; /* the first reason, and what was wrong with it */
	uint64_t refused_value;
};

const char *queue_name(enum queue queue)
{
	static const char *const names[QUEUES] = { "inflate", "deflate", "hint" };

	return names[queue];
}

static bool is_bitmap_mode(const struct balloon *balloon)
{
	/* A device may mean both by bit 3. The driver that takes it for free page hints sets up a queue for them. */
	return balloon->options.page_bitmap && (balloon->features & FEATURE_BIT_3) && !balloon->has_hint_queue;
}

const char *balloon_mode(const struct balloon *balloon)
{
	return is_bitmap_mode(balloon) ? "bitmap" : "pfn";
}

void balloon_read_config(struct balloon *balloon, uint32_t offset, uint32_t length, uint8_t *bytes)
{
	uint8_t config[CONFIG_BYTES] = { 0 };

	balloon->config_reads++;
	store_le32(config + CONFIG_NUM_PAGES, balloon->target_pages);
	store_le32(config + CONFIG_ACTUAL, balloon->actual_pages);
	memset(bytes, 0, length);
	if (offset < CONFIG_BYTES)
		memcpy(bytes, config + offset, length < CONFIG_BYTES - offset ? length : CONFIG_BYTES - offset);
}

void balloon_write_config(struct balloon *balloon, uint32_t offset, uint32_t length, const uint8_t *bytes)
{
	balloon->config_writes++;
	if (offset <= CONFIG_ACTUAL && length >= CONFIG_ACTUAL + 4 - offset)
		balloon->actual_pages = load_le32(bytes + (CONFIG_ACTUAL - offset));
}

/* Spends so much time; how much it was. */
static uint64_t spin(uint64_t extra_ns)
{
	uint64_t start_ns, spent_ns;

	if (!extra_ns)
		return 0;
	start_ns = now_ns();
	while ((spent_ns = now_ns() - start_ns) < extra_ns)
		;
	return spent_ns;
}

static void refuse(struct job *job, const char *why, uint64_t value)
{
	if (!job->done.refused++) {
		job->refusal = why;
		job->refused_value = value;
	}
}

/*
 * MADV_DONTNEED would free nothing of a shared mapping. Deflating does as QEMU's own balloon does: it tells the
 * kernel that the pages will be used, which costs a call and changes nothing.
 */
static void advise(struct job *job, void *host, uint64_t bytes)
{
	bool is_inflate = job->queue == QUEUE_INFLATE;
	struct balloon *balloon = job->balloon;
	uint64_t start_ns;
	int failed;

	if (balloon->options.no_discard)
		return;
	job->done.extra_ns += spin(balloon->extra.per_discard_ns);
	start_ns = balloon->options.time_calls ? now_ns() : 0;
	hold_begin(&balloon->hold);
	failed = madvise(host, bytes, is_inflate ? MADV_REMOVE : MADV_WILLNEED);
	if (balloon->options.time_calls)
		job->done.calls_ns += now_ns() - start_ns;
	job->done.held_ns += hold_end(&balloon->hold);
	if (failed) {
		job->done.errors++;
	} else if (is_inflate) {
		job->done.discards++;
		job->done.discarded_bytes += bytes;
	} else {
		job->done.willneeds++;
	}
}

/* A run is taken whole or refused whole. One call, unless it lies in several regions. */
static void take_run(struct job *job, uint64_t pfn, uint64_t pages)
{
	void *host;

	if (!memory_holds(job->memory, pfn, pages)) {
		refuse(job, "pages outside memory", pfn);
		return;
	}
	job->done.pages += pages;
	job->done.already +=
		pageset_move(&job->balloon->ballooned, pfn, pages, job->queue == QUEUE_INFLATE);
	while (pages) {
		uint64_t piece = memory_pages(job->memory, pfn, pages, &host);

		advise(job, host, piece * PAGE_BYTES);
		pfn += piece;
		pages -= piece;
	}
}

static void take_pfns(struct job *job, const uint8_t *bytes, size_t length)
{
	if (length % PFN_BYTES) {
		refuse(job, "length is not a multiple of 4", length);
		return;
	}
	for (size_t offset = 0; offset < length; offset += PFN_BYTES) {
		job->done.records++;
		take_run(job, load_le32(bytes + offset), 1);
	}
}

static void take_record(struct job *job, struct record *record)
{
	struct run run;

	job->done.records++;
	if (record->kind == RECORD_BAD)
		refuse(job, record_error_text(record->error), record->offset);
	else if (record->kind == RECORD_WORD)
		job->done.words++;
	else
		job->done.plain_runs++;
	while (next_run(record, &run))
		take_run(job, run.start_pfn, run.pages);
}

static void take_bitmap(struct job *job, const uint8_t *bytes, size_t length)
{
	struct payload payload = { .bytes = bytes, .length = length };
	struct record record;

	while (next_record(&payload, &record))
		take_record(job, &record);
}

/* A response: one u64 (cmd, flag, id: all 0 for pages; bytes of payload in its upper half), then the payload. */
static void take_response(struct job *job, const struct chain *chain)
{
	if (chain->length < RESPONSE_HEADER_BYTES) {
		refuse(job, "response header cut short", chain->length);
		return;
	}
	job->header = load_le64(chain->bytes);
	if (job->header & UINT32_MAX)
		refuse(job, "response is not one of pages", job->header);
	else if (job->header >> 32 != chain->length - RESPONSE_HEADER_BYTES)
		refuse(job, "response length is not that of its buffers", job->header >> 32);
	else
		take_bitmap(job, chain->bytes + RESPONSE_HEADER_BYTES, chain->length - RESPONSE_HEADER_BYTES);
}

static void take_chain(struct job *job, const struct chain *chain)
{
	if (chain->refusal)
		refuse(job, chain->refusal, chain->refused_value);
	else if (job->queue == QUEUE_HINT)
		return;
	else if (is_bitmap_mode(job->balloon))
		take_response(job, chain);
	else
		take_pfns(job, chain->bytes, chain->length);
}

static void add_totals(struct totals *sum, const struct totals *one)
{
	sum->buffers += one->buffers;
	sum->bytes += one->bytes;
	sum->records += one->records;
	sum->words += one->words;
	sum->plain_runs += one->plain_runs;
	sum->pages += one->pages;
	sum->already += one->already;
	sum->discards += one->discards;
	sum->discarded_bytes += one->discarded_bytes;
	sum->willneeds += one->willneeds;
	sum->refused += one->refused;
	sum->errors += one->errors;
	sum->ns += one->ns;
	sum->extra_ns += one->extra_ns;
	sum->held_ns += one->held_ns;
	sum->calls_ns += one->calls_ns;
}

#define COUNTS                                                                                                   \
	"\"bytes\": %" PRIu64 ", \"records\": %" PRIu64 ", \"words\": %" PRIu64 ", \"plain_runs\": %" PRIu64     \
	", \"pages\": %" PRIu64 ", \"already\": %" PRIu64 ", \"discards\": %" PRIu64                             \
	", \"discarded_bytes\": %" PRIu64 ", \"willneeds\": %" PRIu64 ", \"refused\": %" PRIu64                  \
	", \"errors\": %" PRIu64 ", \"ns\": %" PRIu64 ", \"extra_ns\": %" PRIu64 ", \"held_ns\": %" PRIu64 "%s"
#define COUNT_VALUES(t, timed)                                                                                          \
	(t)->bytes, (t)->records, (t)->words, (t)->plain_runs, (t)->pages, (t)->already, (t)->discards,          \
		(t)->discarded_bytes, (t)->willneeds, (t)->refused, (t)->errors, (t)->ns, (t)->extra_ns, (t)->held_ns, timed

struct timed {
	char field[48];
};

/* What calls took, as one more field; none where they were not timed. */
static struct timed timed_field(const struct balloon *balloon, const struct totals *totals)
{
	struct timed timed = { "" };

	if (balloon->options.time_calls)
		snprintf(timed.field, sizeof(timed.field), ", \"calls_ns\": %" PRIu64, totals->calls_ns);
	return timed;
}

static void write_dump(struct balloon *balloon, const struct chain *chain)
{
	if (!balloon->dump)
		return;
	if (fwrite(chain->bytes, 1, chain->length, balloon->dump) != chain->length) {
		log_event(&balloon->log, "dump-failed", "\"seq\": %" PRIu64, balloon->buffers);
		fclose(balloon->dump);
		balloon->dump = NULL;
	}
	balloon->dumped_bytes += chain->length;
}

static void write_down(struct job *job, const struct chain *chain, uint64_t start_ns)
{
	struct balloon *balloon = job->balloon;
	const char *queue = queue_name(job->queue);

	if (job->refusal)
		log_event(&balloon->log, "refused",
			  "\"seq\": %" PRIu64 ", \"queue\": \"%s\", \"why\": \"%s\", \"value\": %" PRIu64
			  ", \"count\": %" PRIu64,
			  balloon->buffers, queue, job->refusal, job->refused_value, job->done.refused);
	log_event(&balloon->log, "buffer",
		  "\"seq\": %" PRIu64 ", \"queue\": \"%s\", \"mode\": \"%s\", \"start_ns\": %" PRIu64
		  ", \"header\": %" PRIu64 ", \"dump_offset\": %" PRIu64 ", " COUNTS,
		  balloon->buffers, queue, balloon_mode(balloon), start_ns, job->header, balloon->dumped_bytes,
		  COUNT_VALUES(&job->done, timed_field(balloon, &job->done).field));
	write_dump(balloon, chain);
}

bool balloon_serve(struct balloon *balloon, enum queue queue, struct ring *ring, const struct memory *memory)
{
	static struct chain chain;
	struct job job = { .balloon = balloon, .memory = memory, .queue = queue };
	uint64_t start_ns = now_ns();

	if (!ring_pop(ring, memory, &chain))
		return false;
	balloon->buffers++;
	job.done.buffers = 1;
	job.done.bytes = chain.length;
	take_chain(&job, &chain);
	job.done.extra_ns += spin(balloon->extra.per_buffer_ns);
	if (chain.has_head)
		ring_push(ring, chain.head);
	job.done.ns = now_ns() - start_ns;
	add_totals(&balloon->totals[queue], &job.done);
	write_down(&job, &chain, start_ns);
	return true;
}

bool balloon_set_extra(struct balloon *balloon, const struct extra *extra, const struct memory *memory)
{
	if (!hold_set(&balloon->hold, extra->in_discard_ns, memory))
		return false;
	balloon->extra = *extra;
	return true;
}

void balloon_forget_guest(struct balloon *balloon)
{
	balloon->features = 0;
	balloon->actual_pages = 0;
	pageset_clear(&balloon->ballooned);
}

void balloon_print_status(const struct balloon *balloon, FILE *file)
{
	fprintf(file,
		"\"target_pages\": %" PRIu32 ", \"actual_pages\": %" PRIu32 ", \"ballooned_pages\": %" PRIu64
		", \"features\": %" PRIu64 ", \"mode\": \"%s\", \"config_reads\": %" PRIu64
		", \"config_writes\": %" PRIu64,
		balloon->target_pages, balloon->actual_pages, balloon->ballooned.pages, balloon->features,
		balloon_mode(balloon), balloon->config_reads, balloon->config_writes);
	for (int queue = 0; queue < QUEUES; queue++) {
		const struct totals *totals = &balloon->totals[queue];

		fprintf(file, ", \"%s\": {\"buffers\": %" PRIu64 ", " COUNTS "}", queue_name(queue), totals->buffers,
			COUNT_VALUES(totals, timed_field(balloon, totals).field));
	}
}
