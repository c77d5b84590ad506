/* echo: what the machine's TCP allows. Two processes exchange messages of the sizes of a load.

     echo REQUEST REPLY DEPTH SECONDS

   The client keeps DEPTH requests of REQUEST bytes in flight, the server answers each with REPLY bytes
   that it never looks at; both take as much as one receive brings and answer it with one send, so
   that no server that does any work can be faster. Prints one line of JSON like blkload's. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds_on(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static bool send_all(int fd, const char *data, size_t length)
{
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return false;
        data += sent;
        length -= sent;
    }
    return true;
}

static void connected_pair(int ends[2])
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, length) || listen(listener, 1) ||
        getsockname(listener, (void *)&address, &length) ||
        connect(ends[0], (void *)&address, length) || (ends[1] = accept(listener, NULL, NULL)) < 0) {
        perror("echo");
        exit(1);
    }
    close(listener);
    for (int i = 0; i < 2; i++)
        setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

int main(int count, char **arguments)
{
    if (count != 5) {
        fputs("usage: echo REQUEST REPLY DEPTH SECONDS\n", stderr);
        return 2;
    }
    size_t request = strtoul(arguments[1], NULL, 0), reply = strtoul(arguments[2], NULL, 0);
    size_t depth = strtoul(arguments[3], NULL, 0), room = (request + reply) * depth + (1 << 20);
    double seconds = atof(arguments[4]), ramp = 0.5;
    char *out = calloc(1, room), *in = malloc(room);
    int ends[2];
    connected_pair(ends);
    pid_t server = fork();
    if (!server) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        for (size_t have = 0;;) {
            ssize_t got = recv(ends[1], in + have, room - have, 0);
            if (got <= 0)
                _exit(0);
            have += got;
            size_t messages = have / request;
            have -= messages * request;
            if (messages && !send_all(ends[1], out, messages * reply))
                _exit(0);
        }
    }
    close(ends[1]);
    clockid_t server_clock;
    clock_getcpuclockid(server, &server_clock);
    double started = seconds_on(CLOCK_MONOTONIC), from = 0, now, server_from = 0, client_from = 0;
    uint64_t operations = 0, before = 0;
    send_all(ends[0], out, request * depth);
    for (size_t have = 0;;) {
        ssize_t got = recv(ends[0], in + have, room - have, 0);
        if (got <= 0)
            return 1;
        have += got;
        size_t messages = have / reply;
        if (!messages)
            continue;
        have -= messages * reply;
        operations += messages;
        now = seconds_on(CLOCK_MONOTONIC);
        if (from == 0 && now - started >= ramp) {
            from = now;
            before = operations;
            server_from = seconds_on(server_clock);
            client_from = seconds_on(CLOCK_PROCESS_CPUTIME_ID);
        } else if (from != 0 && now - from >= seconds) {
            break;
        }
        if (!send_all(ends[0], out, messages * request))
            return 1;
    }
    double rate = (operations - before) / (now - from);
    printf("{\"seconds\": %.4f, \"operations\": %llu, \"iops\": %.1f, \"mib_s\": %.2f, "
           "\"server_cpu_s\": %.4f, \"client_cpu_s\": %.4f}\n",
           now - from, (unsigned long long)(operations - before), rate,
           rate * (request + reply) / 1048576, seconds_on(server_clock) - server_from,
           seconds_on(CLOCK_PROCESS_CPUTIME_ID) - client_from);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    return 0;
}
