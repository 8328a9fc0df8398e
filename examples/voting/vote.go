package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log"
	"net/http"

	"github.com/redis/go-redis/v9"
)

// queue is the list in Redis where votes wait for the worker, each "VOTER CHOICE".
const queue = "votes"

const form = `<!DOCTYPE html><title>Vote</title>
<form method="post"><button name="vote" value="a">a</button> <button name="vote" value="b">b</button></form>
`

// vote serves a form, and takes POST vote=a|b. A browser is one voter, known by a cookie, who may change its mind; a vote counts once it
// is in the queue.
func vote(ctx context.Context) error {
	votes := redis.NewClient(&redis.Options{Addr: "redis:6379"})
	defer votes.Close()
	return serve(ctx, func(w http.ResponseWriter, r *http.Request) {
		choice := r.FormValue("vote")
		switch {
		case r.Method != http.MethodPost:
			fmt.Fprint(w, form)
			return
		case choice != "a" && choice != "b":
			http.Error(w, "vote is neither a nor b", http.StatusBadRequest)
			return
		}
		voter := voterOf(w, r)
		if err := votes.RPush(r.Context(), queue, voter+" "+choice).Err(); err != nil {
			log.Print(err)
			http.Error(w, "the queue does not take votes: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		log.Printf("a vote for %s", choice)
		fmt.Fprintf(w, "a vote for %s, taken by %s\n", choice, hostname())
	})
}

// voterOf knows a voter by a cookie, or gives it one.
func voterOf(w http.ResponseWriter, r *http.Request) string {
	if known, err := r.Cookie("voter"); err == nil && len(known.Value) == len(rand.Text()) {
		return known.Value
	}
	voter := rand.Text()
	http.SetCookie(w, &http.Cookie{Name: "voter", Value: voter, HttpOnly: true, SameSite: http.SameSiteStrictMode})
	return voter
}
