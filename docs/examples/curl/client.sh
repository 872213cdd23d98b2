#!/usr/bin/env bash
# Sends and receives notifications with curl:
#
#   client.sh send USER EVENT_TYPE PAYLOAD      with ARA_API_KEY
#   client.sh sse                               with ARA_TOKEN
#
# ARA_URL is the gateway's address. What is received is printed, one line a notification.
set -euo pipefail
url=${ARA_URL:-http://127.0.0.1:8081}

post() { # PATH HEADER BODY
  curl --silent --show-error --fail-with-body --max-time 10 "$url$1" --header "$2" \
    --header 'Content-Type: application/json' --data "$3"
  echo
}

# With the same Idempotency-Key the request can be repeated after a failure: it is sent once.
send() {
  curl --silent --show-error --fail-with-body --max-time 10 --retry 3 "$url/api/v1/notifications/send" \
    --header "X-API-Key: $ARA_API_KEY" --header "Idempotency-Key: $(cat /proc/sys/kernel/random/uuid)" \
    --header 'Content-Type: application/json' \
    --data "{\"target_user_id\":\"$1\",\"event_type\":\"$2\",\"payload\":$3}"
  echo
}

receive() {
  local id='' last='' event='' retry=3000 name value
  while true; do
    while IFS=': ' read -r name value; do
      value=${value%$'\r'}
      case $name in
        id) id=$value last=$value ;;
        event) event=$value ;;
        retry) retry=$value ;;
        data)
          if [ "$event" = notification ]; then
            printf '%s\n' "$value"
            post /api/v1/acks "Authorization: Bearer $ARA_TOKEN" "{\"notification_ids\":[\"$id\"]}" >&2
          fi
          ;;
      esac
    done < <(curl --silent --no-buffer "$url/sse" --header "Authorization: Bearer $ARA_TOKEN" ${last:+--header "Last-Event-ID: $last"})
    echo "connecting again in $retry ms" >&2
    sleep "$(printf '%d.%03d' $((retry / 1000)) $((retry % 1000)))"
  done
}

case ${1:-} in
  send) send "$2" "$3" "$4" ;;
  sse) receive ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
