// SPDX-License-Identifier: GPL-2.0-or-later
/* Maps the guest's memory and finds guest addresses in it. */
#include "memory.h"

#include "decode.h"

#include <sys/mman.h>
#include <sys/stat.h>

static bool is_whole_pages(uint64_t value)
{
	return value % PAGE_BYTES == 0;
}

static bool overlaps(const struct memory *memory, uint64_t start, uint64_t bytes)
{
	for (unsigned int i = 0; i < memory->count; i++) {
		const struct region *region = &memory->regions[i];

		if (start < region->guest_start + region->bytes && region->guest_start < start + bytes)
			return true;
	}
	return false;
}

static const char *check_request(const struct memory *memory, const struct region_request *request)
{
	if (memory->count == MEMORY_REGIONS)
		return "too many regions";
	if (!request->bytes)
		return "empty region";
	if (!is_whole_pages(request->guest_start | request->bytes | request->mmap_offset))
		return "region not in whole pages";
	if (request->guest_start > GUEST_LIMIT_BYTES || request->bytes > GUEST_LIMIT_BYTES - request->guest_start)
		return "region beyond 16 TiB";
	if (request->user_start > UINT64_MAX - request->bytes)
		return "region wraps around";
	if (overlaps(memory, request->guest_start, request->bytes))
		return "regions overlap";
	return NULL;
}

/* Reading past the end of a file that is too short would end the backend by a signal. */
static bool is_long_enough(int descriptor, const struct region_request *request)
{
	struct stat status;

	return !fstat(descriptor, &status) && status.st_size >= 0 &&
	       request->mmap_offset <= (uint64_t)status.st_size &&
	       request->bytes <= (uint64_t)status.st_size - request->mmap_offset;
}

const char *memory_add(struct memory *memory, const struct region_request *request, int descriptor)
{
	const char *why = check_request(memory, request);
	void *host;

	if (why)
		return why;
	if (!is_long_enough(descriptor, request))
		return "descriptor shorter than its region";
	host = mmap(NULL, request->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor,
		    (off_t)request->mmap_offset);
	if (host == MAP_FAILED)
		return "region cannot be mapped";
	memory->regions[memory->count++] = (struct region){
		.guest_start = request->guest_start,
		.bytes = request->bytes,
		.user_start = request->user_start,
		.host = host,
	};
	return NULL;
}

void memory_clear(struct memory *memory)
{
	while (memory->count) {
		struct region *region = &memory->regions[--memory->count];

		munmap(region->host, region->bytes);
	}
}

static void *find(const struct region *region, uint64_t start, uint64_t address, uint64_t bytes)
{
	if (address < start || address - start > region->bytes || bytes > region->bytes - (address - start))
		return NULL;
	return region->host + (address - start);
}

void *memory_guest(const struct memory *memory, uint64_t guest_address, uint64_t bytes)
{
	void *host = NULL;

	for (unsigned int i = 0; i < memory->count && !host; i++)
		host = find(&memory->regions[i], memory->regions[i].guest_start, guest_address, bytes);
	return host;
}

void *memory_user(const struct memory *memory, uint64_t user_address, uint64_t bytes)
{
	void *host = NULL;

	for (unsigned int i = 0; i < memory->count && !host; i++)
		host = find(&memory->regions[i], memory->regions[i].user_start, user_address, bytes);
	return host;
}

uint64_t memory_pages(const struct memory *memory, uint64_t pfn, uint64_t pages, void **host)
{
	for (unsigned int i = 0; i < memory->count; i++) {
		const struct region *region = &memory->regions[i];
		uint64_t first = region->guest_start / PAGE_BYTES;
		uint64_t count = region->bytes / PAGE_BYTES;

		if (pfn < first || pfn - first >= count)
			continue;
		*host = region->host + (pfn - first) * PAGE_BYTES;
		return pages < count - (pfn - first) ? pages : count - (pfn - first);
	}
	return 0;
}

bool memory_holds(const struct memory *memory, uint64_t pfn, uint64_t pages)
{
	void *host;

	while (pages) {
		uint64_t piece = memory_pages(memory, pfn, pages, &host);

		if (!piece)
			return false;
		pfn += piece;
		pages -= piece;
	}
	return true;
}
