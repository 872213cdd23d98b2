// Sends and receives notifications:
//
//	go run . send USER EVENT_TYPE PAYLOAD      with ARA_API_KEY
//	go run . websocket [CHANNEL...]            with ARA_TOKEN
//	go run . sse                               with ARA_TOKEN
//
// ARA_URL is the gateway's address. What is received is printed, one line a notification.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

var (
	url    = env("ARA_URL", "http://127.0.0.1:8081")
	bearer = http.Header{"Authorization": {"Bearer " + os.Getenv("ARA_TOKEN")}}
)

func env(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}

// handle is your code. It may see a notification twice: its id tells.
func handle(notification []byte) {
	fmt.Println(string(notification))
}

func post(path string, header http.Header, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequest(http.MethodPost, url+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header = header.Clone()
	request.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, answer)
	}
	return answer, err
}

func send(user, eventType string, payload json.RawMessage) ([]byte, error) {
	key := make([]byte, 16)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	header := http.Header{}
	header.Set("X-API-Key", os.Getenv("ARA_API_KEY"))
	// With the same key the request can be repeated after a failure: it is sent once.
	header.Set("Idempotency-Key", fmt.Sprintf("%x", key))
	return post("/api/v1/notifications/send", header,
		map[string]any{"target_user_id": user, "event_type": eventType, "payload": payload})
}

type message struct {
	Type                  string
	ID                    string
	ReconnectAfterSeconds float64 `json:"reconnect_after_seconds"`
}

// receiveByWebSocket returns when the connection ends, and how long to wait before the next.
func receiveByWebSocket(channels []string) (pause time.Duration, err error) {
	pause = time.Second
	socket, _, err := websocket.DefaultDialer.Dial(strings.Replace(url, "http", "ws", 1)+"/ws", bearer)
	if err != nil {
		return pause, err
	}
	defer socket.Close()
	if len(channels) > 0 {
		subscribe := map[string]any{"type": "Subscribe", "payload": map[string]any{"channels": channels}}
		if err := socket.WriteJSON(subscribe); err != nil {
			return pause, err
		}
	}
	for {
		_, text, err := socket.ReadMessage()
		if err != nil {
			return pause, err
		}
		var message message
		if err := json.Unmarshal(text, &message); err != nil {
			return pause, err
		}
		switch message.Type {
		case "notification":
			handle(text)
			ack := map[string]any{"type": "Ack", "payload": map[string]any{"notification_id": message.ID}}
			if err := socket.WriteJSON(ack); err != nil {
				return pause, err
			}
		case "shutdown":
			pause = time.Duration(message.ReconnectAfterSeconds * float64(time.Second))
		}
	}
}

// stream is what outlives a connection by Server-Sent Events.
type stream struct {
	lastEventID string
	retry       time.Duration
}

// receive returns when the connection ends.
func (s *stream) receive() error {
	request, err := http.NewRequest(http.MethodGet, url+"/sse", nil)
	if err != nil {
		return err
	}
	request.Header = bearer.Clone()
	request.Header.Set("Accept", "text/event-stream")
	if s.lastEventID != "" {
		request.Header.Set("Last-Event-ID", s.lastEventID)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("refused: %s", response.Status)
	}
	var kind, data string
	lines := bufio.NewReader(response.Body)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		name, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		switch name {
		case "id":
			s.lastEventID = value
		case "event":
			kind = value
		case "data":
			data += value + "\n"
		case "retry":
			if ms, err := strconv.Atoi(value); err == nil {
				s.retry = time.Duration(ms) * time.Millisecond
			}
		case "": // the end of an event
			if kind == "notification" {
				handle([]byte(strings.TrimSuffix(data, "\n")))
				ids := map[string]any{"notification_ids": []string{s.lastEventID}}
				if _, err := post("/api/v1/acks", bearer, ids); err != nil {
					log.Print(err)
				}
			}
			kind, data = "", ""
		}
	}
}

func main() {
	log.SetFlags(0)
	switch arguments := os.Args[1:]; {
	case len(arguments) == 4 && arguments[0] == "send":
		answer, err := send(arguments[1], arguments[2], json.RawMessage(arguments[3]))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(answer))
	case len(arguments) >= 1 && arguments[0] == "websocket":
		for {
			pause, err := receiveByWebSocket(arguments[1:])
			log.Printf("connecting again in %s: %v", pause, err)
			time.Sleep(pause)
		}
	case len(arguments) == 1 && arguments[0] == "sse":
		for stream := (&stream{retry: 3 * time.Second}); ; time.Sleep(stream.retry) {
			log.Printf("connecting again in %s: %v", stream.retry, stream.receive())
		}
	default:
		log.Fatal("use send, websocket or sse: see the head of main.go")
	}
}
