// SPDX-License-Identifier: GPL-2.0-or-later
/* Commands: target PAGES, extra (times), discard (of the disk), status, totals (status, into the log too), quit. */
#include "control.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void control_init(struct control *control, struct vhost *vhost, struct disk *disk)
{
	*control = (struct control){ .vhost = vhost, .disk = disk };
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++)
		control->clients[i].connection = -1;
}

void control_accept(struct control *control, int listener)
{
	int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	for (unsigned int i = 0; i < CONTROL_CLIENTS && connection >= 0; i++)
		if (control->clients[i].connection < 0) {
			control->clients[i] = (struct client){ .connection = connection };
			return;
		}
	if (connection >= 0)
		close(connection);
}

static void drop(struct client *client)
{
	close(client->connection);
	client->connection = -1;
}

static void reply(struct client *client, const char *text)
{
	size_t length = strlen(text);

	/* A client that does not read its answers loses its connection, and nobody waits for it. */
	if (client->connection >= 0 && send(client->connection, text, length, MSG_NOSIGNAL) != (ssize_t)length)
		drop(client);
}

static char *status_line(const struct control *control)
{
	const struct vhost *vhost = control->vhost;
	char *text = NULL;
	size_t length;
	FILE *file = open_memstream(&text, &length);

	if (!file)
		return NULL;
	fprintf(file, "{\"pid\": %d, \"connected\": %s, \"regions\": %u, ", (int)getpid(),
		vhost->connection >= 0 ? "true" : "false", vhost->memory.count);
	if (control->disk->file >= 0)
		fprintf(file, "\"disk\": {\"discards\": %" PRIu64 ", \"discarded_bytes\": %" PRIu64 "}, ",
			control->disk->discards, control->disk->discarded_bytes);
	balloon_print_status(vhost->balloon, file);
	fputs("}\n", file);
	fclose(file);
	return text;
}

static void reply_status(struct control *control, struct client *client)
{
	char *text = status_line(control);

	/* The log read after this answer has all that the answer counts. */
	log_flush(&control->vhost->balloon->log);
	if (control->vhost->balloon->dump)
		fflush(control->vhost->balloon->dump);
	reply(client, text ? text : "{\"error\": \"no memory\"}\n");
	free(text);
}

static void log_totals(struct control *control)
{
	char *text = status_line(control);

	if (text) {
		text[strlen(text) - 2] = '\0'; /* without the end of the object and of the line */
		log_event(&control->vhost->balloon->log, "totals", "%s", text + 1);
	}
	free(text);
}

static void set_target(struct control *control, struct client *client, const char *text)
{
	char *end;
	unsigned long long pages = strtoull(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || pages > UINT32_MAX) {
		reply(client, "{\"error\": \"target takes a number of pages\"}\n");
		return;
	}
	control->vhost->balloon->target_pages = (uint32_t)pages;
	log_event(&control->vhost->balloon->log, "target", "\"pages\": %llu", pages);
	vhost_config_changed(control->vhost);
	reply(client, "{\"ok\": true}\n");
}

/* Three times in ns, as the options of the same names take them. */
static void set_extra(struct control *control, struct client *client, const char *text)
{
	struct extra extra;
	char answer[128], rest;

	if (strspn(text, " 0123456789") != strlen(text) ||
	    sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64 "%c", &extra.per_buffer_ns, &extra.per_discard_ns,
		   &extra.in_discard_ns, &rest) != 3) {
		reply(client, "{\"error\": \"extra takes three times in ns: per buffer, per discard, in discard\"}\n");
		return;
	}
	if (!balloon_set_extra(control->vhost->balloon, &extra, &control->vhost->memory)) {
		snprintf(answer, sizeof(answer), "{\"error\": \"discards cannot be held: errno %d\"}\n", errno);
		reply(client, answer);
		return;
	}
	log_event(&control->vhost->balloon->log, "extra",
		  "\"per_buffer_ns\": %" PRIu64 ", \"per_discard_ns\": %" PRIu64 ", \"in_discard_ns\": %" PRIu64,
		  extra.per_buffer_ns, extra.per_discard_ns, extra.in_discard_ns);
	reply(client, "{\"ok\": true}\n");
}

/* Calls of so many bytes each, made here and now: by the thread that serves the queues. */
static void discard(struct control *control, struct client *client, const char *text)
{
	uint64_t calls, bytes;
	char answer[128], rest;

	if (strspn(text, " 0123456789") != strlen(text) ||
	    sscanf(text, "%" SCNu64 " %" SCNu64 "%c", &calls, &bytes, &rest) != 2 || control->disk->file < 0) {
		reply(client, "{\"error\": \"discard takes calls and bytes of each, and --disk\"}\n");
		return;
	}
	if (!disk_discard(control->disk, calls, bytes)) {
		snprintf(answer, sizeof(answer), "{\"error\": \"the disk cannot be discarded: errno %d\"}\n", errno);
		reply(client, answer);
		return;
	}
	log_event(&control->vhost->balloon->log, "disk", "\"calls\": %" PRIu64 ", \"bytes\": %" PRIu64, calls, bytes);
	reply(client, "{\"ok\": true}\n");
}

static void run_command(struct control *control, struct client *client, const char *line)
{
	if (!strncmp(line, "target ", 7)) {
		set_target(control, client, line + 7);
	} else if (!strncmp(line, "extra ", 6)) {
		set_extra(control, client, line + 6);
	} else if (!strncmp(line, "discard ", 8)) {
		discard(control, client, line + 8);
	} else if (!strcmp(line, "status")) {
		reply_status(control, client);
	} else if (!strcmp(line, "totals")) {
		log_totals(control);
		reply_status(control, client);
	} else if (!strcmp(line, "quit")) {
		control->is_ending = true;
		reply(client, "{\"ok\": true}\n");
	} else {
		reply(client, "{\"error\": \"commands are target, extra, discard, status, totals and quit\"}\n");
	}
}

static void run_lines(struct control *control, struct client *client)
{
	char *end;

	while (client->connection >= 0 && (end = memchr(client->line, '\n', client->length))) {
		size_t used = (size_t)(end - client->line) + 1;

		*end = '\0';
		run_command(control, client, client->line);
		client->length -= used;
		memmove(client->line, client->line + used, client->length);
	}
}

void control_receive(struct control *control, struct client *client)
{
	ssize_t received = recv(client->connection, client->line + client->length,
				sizeof(client->line) - client->length, 0);

	if (received <= 0) {
		drop(client);
		return;
	}
	client->length += (size_t)received;
	run_lines(control, client);
	if (client->connection >= 0 && client->length == sizeof(client->line)) {
		reply(client, "{\"error\": \"line too long\"}\n");
		drop(client);
	}
}

void control_close(struct control *control)
{
	log_totals(control);
	for (unsigned int i = 0; i < CONTROL_CLIENTS; i++)
		if (control->clients[i].connection >= 0)
			drop(&control->clients[i]);
}
