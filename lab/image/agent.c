// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Process 1 of a lab guest: runs commands for the machine outside, over virtio-serial ports.
 *
 * A guest whose balloon has taken nearly everything must still answer, so this is small, static and locked in memory,
 * and as process 1 the OOM killer leaves it alone. Commands write to files in /io, never through a port.
 *
 * A message is a 4-byte little-endian length and that many bytes: fields, each ended by a NUL byte.
 *   hello                                                 -> ready
 *   start ID CWD STDIN STDOUT STDERR ARGC ARGV... ENV...  -> started ID PID, once the program runs
 *                                                            exited ID code|signal NUMBER, later
 *   signal ID NUMBER process|group                        -> (nothing; a command that has ended is no error)
 *   clock NANOSECONDS                                     -> (nothing; the time of day is now that)
 * Answers go to the port the command came from; lab/agent.py is the other side.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORTS 4 /* lab.0 ... lab.3, as AGENT_PORTS in lab/agent.py */
#define PORT_WAIT_MS 10000
#define MESSAGE_BYTES 65536
#define FIELDS 1024
#define ID_BYTES 64
#define COMMANDS 128
#define EXIT_CANNOT_RUN 127

struct port {
	int fd;
	bool host_connected;
	size_t length;
	unsigned char buffer[4 + MESSAGE_BYTES];
};

struct command {
	pid_t pid; /* 0: free */
	int starting; /* closed at the other end once the program runs; -1: seen */
	struct port *port;
	char id[ID_BYTES];
};

static struct port ports[PORTS];
static struct command commands[COMMANDS];
static sigset_t original_mask;

static void note(const char *what, const char *name)
{
	fprintf(stderr, "lab agent: %s %s: %s\n", what, name, strerror(errno));
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

/* With nobody at the other end the answer is dropped: whoever asked is gone. */
static void send_bytes(struct port *port, const unsigned char *bytes, size_t length)
{
	struct pollfd writable = { .fd = port->fd, .events = POLLOUT };

	while (length > 0) {
		ssize_t n = write(port->fd, bytes, length);
		if (n > 0) {
			bytes += n;
			length -= (size_t)n;
		} else if (errno != EAGAIN || poll(&writable, 1, 1000) <= 0 || (writable.revents & POLLHUP)) {
			return;
		}
	}
}

/* The arguments are the fields, ended by NULL. */
static void answer(struct port *port, ...)
{
	unsigned char message[512];
	size_t length = 4;
	va_list fields;

	va_start(fields, port);
	for (const char *field; (field = va_arg(fields, const char *)) != NULL; ) {
		size_t bytes = strlen(field) + 1;
		if (length + bytes > sizeof(message))
			break;
		memcpy(message + length, field, bytes);
		length += bytes;
	}
	va_end(fields);
	for (int i = 0; i < 4; i++)
		message[i] = (unsigned char)((length - 4) >> (8 * i));
	send_bytes(port, message, length);
}

static void answer_exited(struct port *port, const char *id, int status)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	answer(port, "exited", id, WIFSIGNALED(status) ? "signal" : "code", number, NULL);
}

/* ---- commands --------------------------------------------------------------------------------------------------- */

static struct command *find_command(const char *id)
{
	for (int i = 0; i < COMMANDS; i++)
		if (commands[i].pid != 0 && strcmp(commands[i].id, id) == 0)
			return &commands[i];
	return NULL;
}

static struct command *free_command(void)
{
	for (int i = 0; i < COMMANDS; i++)
		if (commands[i].pid == 0)
			return &commands[i];
	return NULL;
}

static void redirect(int target, const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0 || dup2(fd, target) < 0) {
		note("cannot open", path);
		_exit(EXIT_CANNOT_RUN);
	}
	if (fd != target)
		close(fd);
}

/* Said once the program runs: before that it has no process group, and a signal to it would be lost. */
static void answer_started(struct command *command)
{
	char number[16];

	close(command->starting);
	command->starting = -1;
	snprintf(number, sizeof(number), "%d", command->pid);
	answer(command->port, "started", command->id, number, NULL);
}

/* In the child; does not return. Its standard error is set first: what goes wrong after that is told to whoever asked. */
static void become(char **fields, char **argv, char **environment)
{
	const char *cwd = fields[2];

	setsid();
	redirect(STDERR_FILENO, fields[5], O_WRONLY | O_CREAT);
	redirect(STDOUT_FILENO, fields[4], O_WRONLY | O_CREAT);
	redirect(STDIN_FILENO, fields[3], O_RDONLY);
	for (; *environment != NULL; environment++)
		putenv(*environment);
	if (chdir(cwd) != 0) {
		note("cannot enter", cwd);
		_exit(EXIT_CANNOT_RUN);
	}
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &original_mask, NULL);
	execvp(argv[0], argv);
	note("cannot run", argv[0]);
	_exit(EXIT_CANNOT_RUN);
}

static void start(struct port *port, char **fields, int count)
{
	static char *argv[FIELDS + 1];
	int argc = count > 6 ? atoi(fields[6]) : 0;
	struct command *command = free_command();
	int ends[2];

	if (argc < 1 || argc > count - 7 || command == NULL || strlen(fields[1]) >= ID_BYTES) {
		answer(port, "refused", count > 1 ? fields[1] : "?", command ? "malformed request" : "too many commands", NULL);
		return;
	}
	memcpy(argv, fields + 7, (size_t)argc * sizeof(*argv));
	argv[argc] = NULL;
	if (pipe2(ends, O_CLOEXEC) != 0) {
		answer(port, "refused", fields[1], strerror(errno), NULL);
		return;
	}
	pid_t pid = fork();
	if (pid == 0)
		become(fields, argv, fields + 7 + argc);
	close(ends[1]);
	if (pid < 0) {
		answer(port, "refused", fields[1], strerror(errno), NULL);
		close(ends[0]);
		return;
	}
	command->pid = pid;
	command->starting = ends[0];
	command->port = port;
	strcpy(command->id, fields[1]);
}

/* As its parent we have not reaped it yet, so the process id cannot have been given to another process. */
static void send_signal(char **fields, int count)
{
	struct command *command = count == 4 ? find_command(fields[1]) : NULL;

	if (command != NULL)
		kill(strcmp(fields[3], "group") == 0 ? -command->pid : command->pid, atoi(fields[2]));
}

/* An emulated PC's clock knows whole seconds only; recordings of both sides of a balloon are told by this one. */
static void set_clock(char **fields, int count)
{
	if (count != 2)
		return;
	long long now_ns = atoll(fields[1]);
	struct timespec now = {.tv_sec = now_ns / 1000000000, .tv_nsec = now_ns % 1000000000};
	if (clock_settime(CLOCK_REALTIME, &now) < 0)
		note("clock_settime", fields[1]);
}

static void reap(void)
{
	int status;

	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0; ) {
		for (int i = 0; i < COMMANDS; i++) {
			if (commands[i].pid != pid)
				continue;
			if (commands[i].starting >= 0)
				answer_started(&commands[i]);
			commands[i].pid = 0;
			answer_exited(commands[i].port, commands[i].id, status);
		}
	}
}

/* ---- requests --------------------------------------------------------------------------------------------------- */

static void obey(struct port *port, unsigned char *message, size_t length)
{
	static char *fields[FIELDS + 1];
	int count = 0;

	for (size_t at = 0; at < length && count < FIELDS; at += strlen(fields[count - 1]) + 1)
		fields[count++] = (char *)message + at;
	fields[count] = NULL;
	if (count == 0 || message[length - 1] != '\0')
		return;
	if (strcmp(fields[0], "hello") == 0)
		answer(port, "ready", NULL);
	else if (strcmp(fields[0], "start") == 0)
		start(port, fields, count);
	else if (strcmp(fields[0], "signal") == 0)
		send_signal(fields, count);
	else if (strcmp(fields[0], "clock") == 0)
		set_clock(fields, count);
}

static size_t message_length(const struct port *port)
{
	const unsigned char *b = port->buffer;

	return b[0] | (size_t)b[1] << 8 | (size_t)b[2] << 16 | (size_t)b[3] << 24;
}

static void obey_whole_messages(struct port *port)
{
	while (port->length >= 4) {
		size_t length = message_length(port);
		if (length > MESSAGE_BYTES) {
			port->length = 0;
			return;
		}
		if (port->length < 4 + length)
			return;
		obey(port, port->buffer + 4, length);
		port->length -= 4 + length;
		memmove(port->buffer, port->buffer + 4 + length, port->length);
	}
}

/* A read of nothing means that the other end has closed: what it left unfinished is forgotten. */
static void read_port(struct port *port)
{
	ssize_t n = read(port->fd, port->buffer + port->length, sizeof(port->buffer) - port->length);

	if (n > 0) {
		port->length += (size_t)n;
		obey_whole_messages(port);
	} else if (n == 0) {
		port->length = 0;
	}
}

/* ---- ports ------------------------------------------------------------------------------------------------------ */

/* Returns the number in "lab.N" if that is the name of this port, else -1. */
static int read_port_number(const char *device)
{
	char path[320];
	int number = -1;

	snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", device);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return -1;
	if (fscanf(file, "lab.%d", &number) != 1)
		number = -1;
	fclose(file);
	return number;
}

static void open_port(const char *device)
{
	int number = read_port_number(device);
	char path[320];

	if (number < 0 || number >= PORTS || ports[number].fd >= 0)
		return;
	snprintf(path, sizeof(path), "/dev/%s", device);
	ports[number].fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (ports[number].fd < 0)
		return;
	/* The kernel sends SIGIO when the other end connects or goes: without it we would have to poll for that. */
	fcntl(ports[number].fd, F_SETOWN, getpid());
	fcntl(ports[number].fd, F_SETFL, fcntl(ports[number].fd, F_GETFL) | O_ASYNC);
}

static int open_ports_found(void)
{
	DIR *folder = opendir("/sys/class/virtio-ports");
	int open_count = 0;

	if (folder == NULL)
		return 0;
	for (struct dirent *entry; (entry = readdir(folder)) != NULL; )
		if (entry->d_name[0] != '.')
			open_port(entry->d_name);
	closedir(folder);
	for (int i = 0; i < PORTS; i++)
		open_count += ports[i].fd >= 0;
	return open_count;
}

/* Ports appear one by one, after the driver has talked to the device about each. */
static void open_ports(void)
{
	const struct timespec two_ms = { 0, 2000000 };

	for (int i = 0; i < PORTS; i++)
		ports[i].fd = -1;
	for (int waited_ms = 0; open_ports_found() < PORTS && waited_ms < PORT_WAIT_MS; waited_ms += 2)
		nanosleep(&two_ms, NULL);
}

/* A port nobody is connected to reports POLLHUP for ever, so it is looked at only after SIGIO (or once a second). */
static void serve(const sigset_t *mask_while_waiting)
{
	const struct timespec one_s = { 1, 0 };
	struct pollfd waits[PORTS + COMMANDS];

	for (int i = 0; i < PORTS; i++)
		waits[i] = (struct pollfd){ .fd = ports[i].host_connected ? ports[i].fd : -1, .events = POLLIN };
	for (int i = 0; i < COMMANDS; i++)
		waits[PORTS + i] = (struct pollfd){ .fd = commands[i].pid ? commands[i].starting : -1 };
	int ready = ppoll(waits, PORTS + COMMANDS, &one_s, mask_while_waiting);
	for (int i = 0; i < COMMANDS; i++)
		if (ready > 0 && waits[PORTS + i].revents)
			answer_started(&commands[i]);
	reap();
	for (int i = 0; i < PORTS; i++) {
		if (ready > 0 && (waits[i].revents & POLLIN))
			read_port(&ports[i]);
		struct pollfd now = { .fd = ports[i].fd, .events = POLLIN };
		bool connected = ports[i].fd >= 0 && poll(&now, 1, 0) >= 0 && !(now.revents & POLLHUP);
		if (!connected)
			ports[i].length = 0;
		ports[i].host_connected = connected;
	}
}

static void ignore_wakeup(int signal_number)
{
	(void)signal_number;
}

int main(void)
{
	struct sigaction wake = { .sa_handler = ignore_wakeup };
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigaddset(&blocked, SIGIO);
	sigprocmask(SIG_BLOCK, &blocked, &original_mask);
	sigaction(SIGCHLD, &wake, NULL);
	sigaction(SIGIO, &wake, NULL);
	signal(SIGPIPE, SIG_IGN);
	open_ports();
	if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
		note("cannot lock", "memory");
	for (;;)
		serve(&original_mask);
}
