#!/usr/bin/env bash
# Keeps a template and sends by it with curl. All of it with ARA_API_KEY:
#
#   templates.sh put ID EVENT_TYPE PAYLOAD_TEMPLATE    makes it, or puts it in the place of the one there is
#   templates.sh render ID VARIABLES                   shows what would be sent
#   templates.sh send USER ID VARIABLES
#
# ARA_URL is the gateway's address. For instance:
#
#   templates.sh put shipped order.shipped '{"order":"{{order}}","text":"Dear {{customer.name}}, order {{order}} is on its way."}'
#   templates.sh send anna shipped '{"order":1815,"customer":{"name":"Anna"}}'
set -euo pipefail
url=${ARA_URL:-http://127.0.0.1:8081}

call() { # METHOD PATH BODY
  curl --silent --show-error --fail-with-body --max-time 10 --request "$1" "$url/api/v1/$2" \
    --header "X-API-Key: $ARA_API_KEY" --header 'Content-Type: application/json' --data "$3" && echo
}

# PUT changes only what is there. Of two that make one at once, one is told so with 409.
put() {
  local answer fields="\"event_type\":\"$2\",\"payload_template\":$3"
  answer=$(call PUT "templates/$1" "{$fields}" 2> /dev/null) || answer=$(call POST templates "{\"id\":\"$1\",$fields}")
  echo "$answer"
}

case ${1:-} in
  put) put "$2" "$3" "$4" ;;
  render) call POST "templates/$2/render" "{\"variables\":$3}" ;;
  send) call POST notifications/send "{\"target_user_id\":\"$2\",\"template_id\":\"$3\",\"variables\":$4}" ;;
  *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
