// SPDX-License-Identifier: GPL-2.0-or-later
/* Holds calls by a userfaultfd whose events are read late. */
#include "hold.h"

#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

void hold_init(struct hold *hold)
{
	*hold = (struct hold){ .descriptor = -1 };
}

static void *let_go_late(void *argument)
{
	struct hold *hold = argument;
	struct pollfd waiting = { .fd = hold->descriptor, .events = POLLIN };
	struct uffd_msg message;

	for (;;) {
		uint64_t spent_ns;

		if (poll(&waiting, 1, -1) < 0 && errno != EINTR)
			return NULL;
		if (!(waiting.revents & POLLIN))
			continue;
		while ((spent_ns = now_ns() - hold->call_ns) < hold->extra_ns)
			;
		/* Before the call is let go, after which it is read. */
		hold->held_ns = spent_ns;
		(void)!read(hold->descriptor, &message, sizeof(message));
	}
}

/*
 * Of the ways to register memory, write protection is the one that traps nothing until a page is protected, which
 * none ever is.
 */
static bool open_events(struct hold *hold)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_PAGEFAULT_FLAG_WP |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	pthread_t thread;

	if (descriptor < 0)
		return false;
	hold->descriptor = descriptor;
	if (!ioctl(descriptor, UFFDIO_API, &api)) {
		errno = pthread_create(&thread, NULL, let_go_late, hold);
		if (!errno) {
			pthread_detach(thread);
			return true;
		}
	}
	close(descriptor);
	hold->descriptor = -1;
	return false;
}

static bool cover_region(const struct hold *hold, const struct region *region)
{
	struct uffdio_register wanted = {
		.range = { .start = (uintptr_t)region->host, .len = region->bytes },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (!hold->extra_ns)
		return !ioctl(hold->descriptor, UFFDIO_UNREGISTER, &wanted.range);
	return !ioctl(hold->descriptor, UFFDIO_REGISTER, &wanted);
}

bool hold_cover(struct hold *hold, const struct memory *memory)
{
	if (hold->descriptor < 0 && (!hold->extra_ns || !open_events(hold)))
		return !hold->extra_ns;
	for (unsigned int i = 0; i < memory->count; i++)
		if (!cover_region(hold, &memory->regions[i]))
			return false;
	return true;
}

bool hold_set(struct hold *hold, uint64_t extra_ns, const struct memory *memory)
{
	hold->extra_ns = extra_ns;
	if (hold_cover(hold, memory))
		return true;
	hold->extra_ns = 0;
	return false;
}

void hold_begin(struct hold *hold)
{
	if (!hold->extra_ns)
		return;
	hold->held_ns = 0;
	hold->call_ns = now_ns();
}

uint64_t hold_end(struct hold *hold)
{
	return hold->extra_ns ? atomic_load(&hold->held_ns) : 0;
}
