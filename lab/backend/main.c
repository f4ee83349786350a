// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A virtio memory balloon as a vhost-user backend. One thread: it waits for the frontend, the control socket and
 * the guest's kicks, and serves one after the other. So the order of the log is the order of what happened.
 */
#include "balloon.h"
#include "control.h"
#include "vhost.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define EXIT_USAGE 2
/*
 * The log is written when nothing has come for so long, or on request: to write it while a balloon moves takes time,
 * and in a nested host a round trip to the machine outside, during which the clock of instructions runs on.
 */
#define RESTS_MS 100
#define LOG_BUFFER_BYTES (1 << 20)

static const char USAGE[] =
	"balloon-backend (--socket PATH | --fd N) [options]\n"
	"  --socket PATH             listen here for a vhost-user frontend, one after the other\n"
	"  --fd N                    or talk to the one connected to descriptor N, and end with it\n"
	"  --control PATH            listen here for commands: target, extra, discard, status, totals, quit\n"
	"  --control-fd N            or on the listening socket that is descriptor N\n"
	"  --log FILE                write what happens there, a JSON object per line\n"
	"  --dump FILE               write the payload of every buffer there, one after the other\n"
	"  --page-bitmap             offer feature bit 3, meaning page bitmaps\n"
	"  --free-page-hint          offer feature bit 3, meaning free page hints, and a third queue for them;\n"
	"                            with both, a driver means hints if it sets up that queue\n"
	"  --deflate-on-oom          offer feature bit 2: the guest may take pages back when it runs out of memory\n"
	"  --disk FILE               make holes in this file when told so, in the thread that serves the queues\n"
	"  --no-discard              keep the memory that the guest gives away\n"
	"  --time-calls              look at the clock before and after every discard\n"
	"  --extra-ns-per-buffer N   spend so much more time on every buffer\n"
	"  --extra-ns-per-discard N  spend so much more time before every discard\n"
	"  --extra-ns-in-discard N   have every discard take so much longer inside the call\n";

struct program {
	const char *socket_path, *control_path, *log_path, *dump_path, *disk_path;
	int frontend; /* from --fd */
	int listener, control_listener, signals;
	struct balloon balloon;
	struct vhost vhost;
	struct disk disk;
	struct control control;
};

static void die(const char *what, const char *name)
{
	fprintf(stderr, "balloon-backend: %s %s: %s\n", what, name, strerror(errno));
	exit(EXIT_FAILURE);
}

static void usage(const char *why)
{
	fprintf(stderr, "balloon-backend: %s\n%s", why, USAGE);
	exit(EXIT_USAGE);
}

static uint64_t parse_number(const char *text)
{
	char *end;
	unsigned long long value;

	errno = 0;
	value = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno)
		usage("not a number");
	return value;
}

static int parse_descriptor(const char *text)
{
	uint64_t number = parse_number(text);
	struct stat status;

	if (number > INT32_MAX || fstat((int)number, &status) || !S_ISSOCK(status.st_mode))
		usage("not the descriptor of a socket");
	return (int)number;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		die("cannot listen at", path);
	}
	strcpy(address.sun_path, path);
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 8))
		die("cannot listen at", path);
	return listener;
}

static FILE *open_for_writing(const char *path)
{
	FILE *file = path ? fopen(path, "we") : NULL;

	if (path && !file)
		die("cannot write", path);
	if (file)
		setvbuf(file, NULL, _IOFBF, LOG_BUFFER_BYTES);
	return file;
}

enum { SOCKET = 1, FD, CONTROL, CONTROL_FD, LOG, DUMP, PAGE_BITMAP, HINT, ON_OOM, DISK, NO_DISCARD, TIME_CALLS, PER_BUFFER, PER_DISCARD, IN_DISCARD, HELP };

static const struct option OPTIONS[] = {
	{ "socket", required_argument, NULL, SOCKET },
	{ "fd", required_argument, NULL, FD },
	{ "control", required_argument, NULL, CONTROL },
	{ "control-fd", required_argument, NULL, CONTROL_FD },
	{ "log", required_argument, NULL, LOG },
	{ "dump", required_argument, NULL, DUMP },
	{ "page-bitmap", no_argument, NULL, PAGE_BITMAP },
	{ "free-page-hint", no_argument, NULL, HINT },
	{ "deflate-on-oom", no_argument, NULL, ON_OOM },
	{ "disk", required_argument, NULL, DISK },
	{ "no-discard", no_argument, NULL, NO_DISCARD },
	{ "time-calls", no_argument, NULL, TIME_CALLS },
	{ "extra-ns-per-buffer", required_argument, NULL, PER_BUFFER },
	{ "extra-ns-per-discard", required_argument, NULL, PER_DISCARD },
	{ "extra-ns-in-discard", required_argument, NULL, IN_DISCARD },
	{ "help", no_argument, NULL, HELP },
	{ NULL, 0, NULL, 0 },
};

static void parse_option(struct program *program, int option)
{
	struct options *options = &program->balloon.options;
	struct extra *extra = &program->balloon.extra;

	switch (option) {
	case SOCKET:
		program->socket_path = optarg;
		break;
	case FD:
		program->frontend = parse_descriptor(optarg);
		break;
	case CONTROL:
		program->control_path = optarg;
		break;
	case CONTROL_FD:
		program->control_listener = parse_descriptor(optarg);
		break;
	case LOG:
		program->log_path = optarg;
		break;
	case DUMP:
		program->dump_path = optarg;
		break;
	case PAGE_BITMAP:
		options->page_bitmap = true;
		break;
	case HINT:
		options->free_page_hint = true;
		break;
	case ON_OOM:
		options->deflate_on_oom = true;
		break;
	case DISK:
		program->disk_path = optarg;
		break;
	case NO_DISCARD:
		options->no_discard = true;
		break;
	case TIME_CALLS:
		options->time_calls = true;
		break;
	case PER_BUFFER:
		extra->per_buffer_ns = parse_number(optarg);
		break;
	case PER_DISCARD:
		extra->per_discard_ns = parse_number(optarg);
		break;
	case IN_DISCARD:
		extra->in_discard_ns = parse_number(optarg);
		break;
	case HELP:
		fputs(USAGE, stdout);
		exit(EXIT_SUCCESS);
	default:
		exit(EXIT_USAGE);
	}
}

static void parse_arguments(struct program *program, int count, char **words)
{
	int option;

	program->frontend = program->listener = program->control_listener = program->disk.file = -1;
	while ((option = getopt_long(count, words, "", OPTIONS, NULL)) != -1)
		parse_option(program, option);
	if (optind != count)
		usage("too many words");
	if (!program->socket_path == (program->frontend < 0))
		usage("one of --socket and --fd is needed");
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC);
}

static void set_up(struct program *program)
{
	if (!pageset_open(&program->balloon.ballooned))
		die("cannot get", "memory");
	program->balloon.log.file = open_for_writing(program->log_path);
	program->balloon.dump = open_for_writing(program->dump_path);
	vhost_init(&program->vhost, &program->balloon);
	hold_init(&program->balloon.hold);
	if (!balloon_set_extra(&program->balloon, &program->balloon.extra, &program->vhost.memory))
		die("cannot hold", "discards");
	if (program->disk_path && !disk_open(&program->disk, program->disk_path))
		die("cannot write", program->disk_path);
	control_init(&program->control, &program->vhost, &program->disk);
	program->signals = open_signals();
	if (program->control_path)
		program->control_listener = listen_at(program->control_path);
	if (program->socket_path)
		program->listener = listen_at(program->socket_path);
	else
		vhost_connect(&program->vhost, program->frontend);
}

/* What is waited for; a descriptor of -1 is one that poll passes over. */
enum {
	POLL_SIGNALS,
	POLL_CONTROL,
	POLL_LISTENER,
	POLL_FRONTEND,
	POLL_KICKS,
	POLL_CLIENTS = POLL_KICKS + QUEUES,
	POLLS = POLL_CLIENTS + CONTROL_CLIENTS,
};

static void fill_polls(const struct program *program, struct pollfd *polls)
{
	bool has_frontend = program->vhost.connection >= 0;

	polls[POLL_SIGNALS].fd = program->signals;
	polls[POLL_CONTROL].fd = program->control_listener;
	polls[POLL_LISTENER].fd = has_frontend ? -1 : program->listener;
	polls[POLL_FRONTEND].fd = program->vhost.connection;
	for (int queue = 0; queue < QUEUES; queue++)
		polls[POLL_KICKS + queue].fd =
			vhost_ring_runs(&program->vhost, queue) ? program->vhost.rings[queue].kick : -1;
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++)
		polls[POLL_CLIENTS + i].fd = program->control.clients[i].connection;
	for (unsigned int i = 0; i < POLLS; i++)
		polls[i].events = POLLIN;
}

static void accept_frontend(struct program *program)
{
	int connection = accept4(program->listener, NULL, NULL, SOCK_CLOEXEC);

	if (connection >= 0)
		vhost_connect(&program->vhost, connection);
}

/* Serves kicked queues; whether there is more to be done at once. */
static bool serve_queues(struct program *program, const struct pollfd *polls)
{
	bool has_more = false;

	for (int queue = 0; queue < QUEUES; queue++) {
		uint64_t kicks;

		/* Not waited for: what the kick says is also in the ring, which is looked at in any case. */
		if (polls[POLL_KICKS + queue].revents)
			(void)!read(polls[POLL_KICKS + queue].fd, &kicks, sizeof(kicks));
		if (vhost_ring_runs(&program->vhost, queue))
			has_more |= vhost_serve(&program->vhost, queue);
	}
	return has_more;
}

static void serve_sockets(struct program *program, const struct pollfd *polls)
{
	/* Queues were served with these; the frontend may now take them away. */
	if (polls[POLL_FRONTEND].revents)
		vhost_receive(&program->vhost);
	if (polls[POLL_LISTENER].revents)
		accept_frontend(program);
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++)
		if (polls[POLL_CLIENTS + i].revents)
			control_receive(&program->control, &program->control.clients[i]);
	if (polls[POLL_CONTROL].revents)
		control_accept(&program->control, program->control_listener);
}

static bool is_over(const struct program *program, const struct pollfd *polls)
{
	bool lost_only_frontend = program->listener < 0 && program->vhost.connection < 0;

	return polls[POLL_SIGNALS].revents || program->control.is_ending || lost_only_frontend;
}

static void run(struct program *program)
{
	struct pollfd polls[POLLS] = { 0 };
	bool has_more = false, is_written = false;
	int ready;

	while (!is_over(program, polls)) {
		fill_polls(program, polls);
		ready = poll(polls, POLLS, has_more ? 0 : is_written ? -1 : RESTS_MS);
		if (ready < 0) {
			if (errno == EINTR)
				continue;
			die("cannot", "poll");
		}
		if (ready == 0 && !has_more) {
			log_flush(&program->balloon.log);
			is_written = true;
			continue;
		}
		has_more = serve_queues(program, polls);
		serve_sockets(program, polls);
		is_written = false;
	}
}

static void clean_up(struct program *program)
{
	vhost_disconnect(&program->vhost);
	control_close(&program->control);
	if (program->socket_path)
		unlink(program->socket_path);
	if (program->control_path)
		unlink(program->control_path);
	if (program->balloon.log.file)
		fclose(program->balloon.log.file);
	if (program->balloon.dump)
		fclose(program->balloon.dump);
}

int main(int count, char **words)
{
	static struct program program;

	parse_arguments(&program, count, words);
	set_up(&program);
	run(&program);
	clean_up(&program);
	return EXIT_SUCCESS;
}
