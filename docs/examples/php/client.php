<?php
// Sends and receives notifications, with nothing but PHP 8:
//
//   php client.php send USER EVENT_TYPE PAYLOAD      with ARA_API_KEY
//   php client.php sse                               with ARA_TOKEN
//
// ARA_URL is the gateway's address. What is received is printed, one line a notification.
declare(strict_types=1);

$url = getenv('ARA_URL') ?: 'http://127.0.0.1:8081';
$bearer = 'Authorization: Bearer ' . getenv('ARA_TOKEN');

// Your code. It may see a notification twice: its id tells.
function handle(array $notification): void
{
    echo json_encode($notification, JSON_THROW_ON_ERROR), "\n";
}

function post(string $url, array $headers, array $body): array
{
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => [...$headers, 'Content-Type: application/json'],
        'content' => json_encode($body, JSON_THROW_ON_ERROR),
        'ignore_errors' => true, // the body of an error says what is wrong
        'timeout' => 10,
    ]]);
    $text = file_get_contents($url, false, $context);
    $answer = json_decode($text ?: throw new RuntimeException("$url does not answer"), true, flags: JSON_THROW_ON_ERROR);
    if (isset($answer['error'])) {
        throw new RuntimeException("{$answer['error']['code']}: {$answer['error']['message']}");
    }
    return $answer;
}

function send(string $url, string $user, string $eventType, mixed $payload): array
{
    // With the same key the request can be repeated after a failure: it is sent once.
    $headers = ['X-API-Key: ' . getenv('ARA_API_KEY'), 'Idempotency-Key: ' . bin2hex(random_bytes(16))];
    $body = ['target_user_id' => $user, 'event_type' => $eventType, 'payload' => $payload];
    return post("$url/api/v1/notifications/send", $headers, $body);
}

/** The events of one connection, until it ends. */
function events(string $url, array $headers): Generator
{
    // HTTP/1.0 has no chunks: PHP's reader of those waits until it has more than one event.
    $context = stream_context_create(['http' => ['header' => $headers, 'protocol_version' => 1.0, 'timeout' => 90]]);
    $stream = @fopen($url, 'r', false, $context);
    $event = [];
    while ($stream && ($line = fgets($stream)) !== false) {
        $line = rtrim($line, "\r\n");
        if ($line !== '') {
            [$name, $value] = explode(': ', $line, 2) + [1 => ''];
            $event[$name] = isset($event[$name]) ? "{$event[$name]}\n$value" : $value;
        } elseif ($event) {
            yield $event;
            $event = [];
        }
    }
}

function receive(string $url, string $bearer): never
{
    [$lastEventId, $retryMs] = ['', 3000];
    while (true) {
        $headers = [$bearer, 'Accept: text/event-stream', ...($lastEventId === '' ? [] : ["Last-Event-ID: $lastEventId"])];
        foreach (events("$url/sse", $headers) as $event) {
            $lastEventId = $event['id'] ?? $lastEventId;
            $retryMs = (int) ($event['retry'] ?? $retryMs);
            if (($event['event'] ?? '') === 'notification') {
                handle(json_decode($event['data'], true, flags: JSON_THROW_ON_ERROR));
                post("$url/api/v1/acks", [$bearer], ['notification_ids' => [$event['id']]]);
            }
        }
        fwrite(STDERR, "connecting again in $retryMs ms\n");
        usleep($retryMs * 1000);
    }
}

match ($argv[1] ?? '') {
    'send' => print(json_encode(send($url, $argv[2], $argv[3], json_decode($argv[4], flags: JSON_THROW_ON_ERROR))) . "\n"),
    'sse' => receive($url, $bearer),
    default => throw new InvalidArgumentException('use send or sse: see the head of this file'),
};
