// SPDX-License-Identifier: GPL-2.0-or-later
/* The page-bitmap payload: records of a start page and either one bitmap word or the order of one plain run. */
#ifndef DECODE_H
#define DECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define PAGE_SHIFT 12u
#define PFN_BITS 52u
#define PAYLOAD_MAX_BYTES 32768u

enum record_kind {
	RECORD_WORD, /* 64 pages, of which `bits` says which */
	RECORD_PLAIN, /* one run of a power of two */
	RECORD_BAD, /* `error` says why */
};

enum record_error {
	RECORD_OK,
	RECORD_CUT_HEADER, /* fewer than 8 bytes are left; ends the payload */
	RECORD_CUT_WORD, /* the word announced is not there; ends the payload */
	RECORD_BITMAP_LENGTH, /* neither 0 nor 8: what follows cannot be parsed; ends the payload */
	RECORD_PAGE_SHIFT, /* a word of pages other than 4 KiB, or a run of less than a page; skipped */
	RECORD_BEYOND, /* names pages past the last of 2^52; skipped whole */
};

struct payload {
	const uint8_t *bytes;
	size_t length;
	size_t position;
};

struct record {
	enum record_kind kind;
	enum record_error error;
	size_t offset; /* where it starts in the payload */
	uint64_t start_pfn;
	uint64_t bits; /* of a word: those that next_run has not yet given out */
	uint64_t pages; /* of a plain run: the same */
};

struct run {
	uint64_t start_pfn;
	uint64_t pages;
};

/* The next record; false at the end, which is also after a record that ends the payload. */
bool next_record(struct payload *payload, struct record *record);

/* The next run of neighbouring pages in a record, ascending; false when there is none left. */
bool next_run(struct record *record, struct run *run);

const char *record_error_text(enum record_error error);

#endif
