// Pion's end. Requests from stdin, answers to stdout; see the docstring of tests/interop/stacks.
//
// Channels are detached, as Pion takes messages of 64 KB only then.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/pion/datachannel"
	"github.com/pion/logging"
	"github.com/pion/webrtc"
)

const (
	maxMessage = 1 << 18
	buffered   = 4 << 20
)

type request struct {
	ID       int       `json:"id"`
	Do       string    `json:"do"`
	Label    string    `json:"label"`
	Ordered  bool      `json:"ordered"`
	SDP      string    `json:"sdp"`
	Channel  int       `json:"channel"`
	Count    int       `json:"count"`
	Size     int       `json:"size"`
	Counting bool      `json:"counting"`
	Digest   bool      `json:"digest"`
	Messages []message `json:"messages"`
}

type message struct {
	Text  *string `json:"text"`
	Bytes int     `json:"bytes"`
}

type wire struct {
	data []byte
	text bool
}

type end struct {
	channel *webrtc.DataChannel
	raw     datachannel.ReadWriteCloser
	inbox   chan wire
	opened  chan struct{}
	closed  chan struct{}
}

func newEnd(channel *webrtc.DataChannel) *end {
	e := &end{
		channel: channel,
		inbox:   make(chan wire, 1024),
		opened:  make(chan struct{}),
		closed:  make(chan struct{}),
	}
	channel.OnOpen(func() {
		raw, err := channel.Detach()
		if err != nil {
			panic(err)
		}
		e.raw = raw
		close(e.opened)
		go e.read()
	})
	return e
}

func (e *end) read() {
	buffer := make([]byte, maxMessage)
	for {
		count, isString, err := e.raw.ReadDataChannel(buffer)
		if err != nil {
			close(e.closed)
			return
		}
		e.inbox <- wire{append([]byte(nil), buffer[:count]...), isString}
	}
}

func (e *end) send(data []byte, text bool) error {
	for e.channel.BufferedAmount() > buffered {
		time.Sleep(time.Millisecond)
	}
	_, err := e.raw.WriteDataChannel(data, text)
	return err
}

func counted(start, size int) []byte {
	data := make([]byte, size)
	for at := 0; at < size; at += 4 {
		binary.BigEndian.PutUint32(data[at:], uint32((start+at)/4))
	}
	return data
}

type endpoint struct {
	connection *webrtc.PeerConnection
	came       chan *end
	lock       sync.Mutex
	ends       []*end
}

func newEndpoint() (*endpoint, error) {
	settings := webrtc.SettingEngine{}
	settings.DetachDataChannels()
	loggers := logging.NewDefaultLoggerFactory()
	loggers.Writer = os.Stderr // by itself it writes among the answers
	settings.LoggerFactory = loggers
	connection, err := webrtc.NewAPI(webrtc.WithSettingEngine(settings)).NewPeerConnection(webrtc.Configuration{})
	if err != nil {
		return nil, err
	}
	p := &endpoint{connection: connection, came: make(chan *end, 1024)}
	connection.OnDataChannel(func(channel *webrtc.DataChannel) { p.came <- newEnd(channel) })
	return p, nil
}

func (p *endpoint) add(e *end) int {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.ends = append(p.ends, e)
	return len(p.ends) - 1
}

func (p *endpoint) end(number int) *end {
	p.lock.Lock()
	defer p.lock.Unlock()
	return p.ends[number]
}

func (p *endpoint) create(label string, ordered bool) (*end, error) {
	channel, err := p.connection.CreateDataChannel(label, &webrtc.DataChannelInit{Ordered: &ordered})
	if err != nil {
		return nil, err
	}
	return newEnd(channel), nil
}

func (p *endpoint) describe(description webrtc.SessionDescription, err error) (interface{}, error) {
	if err != nil {
		return nil, err
	}
	gathered := webrtc.GatheringCompletePromise(p.connection)
	if err := p.connection.SetLocalDescription(description); err != nil {
		return nil, err
	}
	<-gathered
	return p.connection.LocalDescription().SDP, nil
}

func (p *endpoint) do(r request) (interface{}, error) {
	switch r.Do {
	case "offer":
		e, err := p.create(r.Label, r.Ordered)
		if err != nil {
			return nil, err
		}
		p.add(e)
		return p.describe(p.connection.CreateOffer(nil))
	case "answer":
		offer := webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: r.SDP}
		if err := p.connection.SetRemoteDescription(offer); err != nil {
			return nil, err
		}
		return p.describe(p.connection.CreateAnswer(nil))
	case "accept":
		answer := webrtc.SessionDescription{Type: webrtc.SDPTypeAnswer, SDP: r.SDP}
		return nil, p.connection.SetRemoteDescription(answer)
	case "open":
		e, err := p.create(r.Label, r.Ordered)
		if err != nil {
			return nil, err
		}
		<-e.opened
		return p.add(e), nil
	case "accepted":
		e := <-p.came
		<-e.opened
		return map[string]interface{}{
			"channel": p.add(e), "label": e.channel.Label(), "ordered": e.channel.Ordered(),
		}, nil
	}
	return p.end(r.Channel).do(r)
}

func (e *end) do(r request) (interface{}, error) {
	switch r.Do {
	case "opened":
		<-e.opened
		return nil, nil
	case "send":
		for _, m := range r.Messages {
			data := counted(0, m.Bytes)
			if m.Text != nil {
				data = []byte(*m.Text)
			}
			if err := e.send(data, m.Text != nil); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case "receive":
		messages := []map[string]interface{}{}
		for len(messages) < r.Count {
			m := <-e.inbox
			digest := sha256.Sum256(m.data)
			messages = append(messages, map[string]interface{}{
				"text": m.text, "size": len(m.data), "sha256": hex.EncodeToString(digest[:]),
			})
		}
		return messages, nil
	case "pump":
		data := make([]byte, r.Size)
		for number := 0; number < r.Count; number++ {
			if r.Counting {
				data = counted(number*r.Size, r.Size)
			}
			if err := e.send(data, false); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case "sink":
		return e.sink(r.Size, r.Digest), nil
	case "echo":
		go func() {
			for m := range e.inbox {
				if e.send(m.data, m.text) != nil {
					return
				}
			}
		}()
		return nil, nil
	case "ping":
		times := []float64{}
		for len(times) < r.Count {
			began := time.Now()
			if err := e.send([]byte{0}, false); err != nil {
				return nil, err
			}
			<-e.inbox
			times = append(times, time.Since(began).Seconds())
		}
		return times, nil
	case "close":
		return nil, e.raw.Close()
	case "closed":
		<-e.closed
		return nil, nil
	}
	return nil, fmt.Errorf("unknown request %q", r.Do)
}

func (e *end) sink(size int, digest bool) interface{} {
	sum := sha256.New()
	kept := []string{}
	messages := 0
	for size > 0 {
		m := <-e.inbox
		size -= len(m.data)
		messages++
		if digest && e.channel.Ordered() {
			sum.Write(m.data)
		} else if digest {
			kept = append(kept, string(m.data))
		}
	}
	if !digest {
		return messages
	}
	sort.Strings(kept)
	sum.Write([]byte(strings.Join(kept, "")))
	return []interface{}{messages, hex.EncodeToString(sum.Sum(nil))}
}

func main() {
	p, err := newEndpoint()
	if err != nil {
		panic(err)
	}
	var lock sync.Mutex
	output := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			panic(err)
		}
		go func() {
			answer := map[string]interface{}{"id": r.ID}
			if result, err := p.do(r); err != nil {
				answer["error"] = err.Error()
			} else {
				answer["result"] = result
			}
			lock.Lock()
			defer lock.Unlock()
			if err := output.Encode(answer); err != nil {
				panic(err)
			}
		}()
	}
	_ = p.connection.Close()
}
