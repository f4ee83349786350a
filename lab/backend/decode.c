// SPDX-License-Identifier: GPL-2.0-or-later
/* Decodes page-bitmap payloads; trusts nothing in them, allocates nothing and knows nothing of memory. */
#include "decode.h"

#include "little.h"

#define RECORD_HEADER_BYTES 8u
#define WORD_BYTES 8u
#define WORD_PAGES 64u
#define PFN_LIMIT (UINT64_C(1) << PFN_BITS)

static bool fits(uint64_t start_pfn, uint64_t pages)
{
	return pages <= PFN_LIMIT && start_pfn <= PFN_LIMIT - pages;
}

/* Pages from the start of a word to its highest set bit. */
static uint64_t word_extent(uint64_t bits)
{
	return bits ? WORD_PAGES - (uint64_t)__builtin_clzll(bits) : 0;
}

static void bad_record(struct record *record, enum record_error error)
{
	record->kind = RECORD_BAD;
	record->error = error;
	record->bits = 0;
	record->pages = 0;
}

static void decode_word(struct payload *payload, struct record *record, unsigned int page_shift)
{
	if (payload->length - payload->position < WORD_BYTES) {
		payload->position = payload->length;
		bad_record(record, RECORD_CUT_WORD);
		return;
	}
	record->kind = RECORD_WORD;
	record->bits = load_le64(payload->bytes + payload->position);
	payload->position += WORD_BYTES;
	if (page_shift != PAGE_SHIFT)
		bad_record(record, RECORD_PAGE_SHIFT);
	else if (!fits(record->start_pfn, word_extent(record->bits)))
		bad_record(record, RECORD_BEYOND);
}

static void decode_plain(struct record *record, unsigned int page_shift)
{
	record->kind = RECORD_PLAIN;
	if (page_shift < PAGE_SHIFT) {
		bad_record(record, RECORD_PAGE_SHIFT);
		return;
	}
	record->pages = UINT64_C(1) << (page_shift - PAGE_SHIFT);
	if (!fits(record->start_pfn, record->pages))
		bad_record(record, RECORD_BEYOND);
}

bool next_record(struct payload *payload, struct record *record)
{
	uint64_t header;
	unsigned int page_shift, bitmap_bytes;

	if (payload->position >= payload->length)
		return false;
	*record = (struct record){ .offset = payload->position };
	if (payload->length - payload->position < RECORD_HEADER_BYTES) {
		payload->position = payload->length;
		bad_record(record, RECORD_CUT_HEADER);
		return true;
	}
	header = load_le64(payload->bytes + payload->position);
	payload->position += RECORD_HEADER_BYTES;
	record->start_pfn = header & (PFN_LIMIT - 1);
	page_shift = header >> PFN_BITS & 0x3f;
	bitmap_bytes = (unsigned int)(header >> 58);
	if (bitmap_bytes == WORD_BYTES) {
		decode_word(payload, record, page_shift);
	} else if (bitmap_bytes == 0) {
		decode_plain(record, page_shift);
	} else {
		payload->position = payload->length;
		bad_record(record, RECORD_BITMAP_LENGTH);
	}
	return true;
}

bool next_run(struct record *record, struct run *run)
{
	unsigned int first, pages;
	uint64_t shifted;

	if (record->kind == RECORD_PLAIN && record->pages) {
		*run = (struct run){ record->start_pfn, record->pages };
		record->pages = 0;
		return true;
	}
	if (record->kind != RECORD_WORD || !record->bits)
		return false;
	first = (unsigned int)__builtin_ctzll(record->bits);
	shifted = ~(record->bits >> first);
	pages = shifted ? (unsigned int)__builtin_ctzll(shifted) : WORD_PAGES;
	*run = (struct run){ record->start_pfn + first, pages };
	/* Two shifts, because one by all 64 bits is not defined. */
	record->bits &= ~UINT64_C(0) << (first + pages - 1) << 1;
	return true;
}

const char *record_error_text(enum record_error error)
{
	switch (error) {
	case RECORD_OK:
		return "no error";
	case RECORD_CUT_HEADER:
		return "record cut short";
	case RECORD_CUT_WORD:
		return "bitmap word cut short";
	case RECORD_BITMAP_LENGTH:
		return "bitmap length neither 0 nor 8";
	case RECORD_PAGE_SHIFT:
		return "impossible page shift";
	case RECORD_BEYOND:
		return "pages beyond 2^52";
	}
	return "unknown";
}
